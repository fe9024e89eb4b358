"""URLs of stacks as the command line handles them: shown without what is secret in them, and counted from a file's folder."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

from palaver.url import options_of

MASK = "***"
_SECRET = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_NO_PASSWORD = ("", "sqlite", "memory", "file")
_PATHS = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def masked(url: str) -> str:
    """Return a URL with every password in it masked, in its options as well; one that cannot be taken apart surely is masked whole."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    user, at, server = parts.netloc.rpartition("@")
    if not at and _doubtful(parts):
        return f"{parts.scheme}://{MASK}"
    netloc = f"{user.partition(':')[0]}:{MASK}@{server}" if ":" in user else parts.netloc
    given = options_of(parts.query)
    options = [(name, MASK if _hides(name) else masked(value)) for name, value in given]
    query = parts.query if options == given else urlencode(options, safe="/:*@+,", quote_via=quote)
    path = parts.path
    before, at, behind = path.rpartition("@")
    if at and not parts.netloc and (":" in before or parts.scheme not in _NO_PASSWORD):
        path = f"{MASK}@{behind}"
    shown = parts._replace(netloc=netloc, path=path, query=query)
    if shown == parts:
        return url
    # Without a host, urlunsplit leaves the slashes out of every scheme it does not know.
    text, start = urlunsplit(shown), f"{parts.scheme}:"
    return text if netloc or not url.lower().startswith(f"{start}//") else f"{start}//{text.removeprefix(start).removeprefix('//')}"


def _doubtful(parts: SplitResult) -> bool:
    """Say whether what looks like a port begins a password with an unescaped /, ? or #."""
    ports = [port for host in parts.netloc.split(",") for _, colon, port in [host.rpartition("]")[2].partition(":")] if colon]
    return ":" in parts.netloc and (not all(map(str.isdigit, ports)) or "@" in f"{parts.path}{parts.query}{parts.fragment}")


def _hides(name: str) -> bool:
    return name not in _PATHS and bool(_SECRET.search(name))


def from_folder(url: str, folder: Path) -> str:
    """Return a URL whose relative paths begin in a folder: the SQLite file, objects in a folder, certificates, a search of its own."""
    if "://" not in url and not url.startswith(("memory:", "file:")):
        return str(folder / url)
    scheme, colon, rest = url.partition(":")
    head, mark, query = rest.partition("?")
    if scheme == "sqlite" and head.startswith("///"):
        head = "///" + quote(str(folder / unquote(head[3:])))
    elif scheme == "file" and head and not head.startswith("/"):
        head = quote(str(folder / unquote(head)))
    options = [(name, _option_from(name, value, folder)) for name, value in options_of(query)]
    if options != options_of(query):
        query = urlencode(options, safe="/:+,", quote_via=quote)
    return scheme + colon + head + mark + query


def _option_from(name: str, value: str, folder: Path) -> str:
    if name in _PATHS:
        return str(folder / value)
    return from_folder(value, folder) if name in ("blobs", "search") and value.startswith(("file:", "sqlite:")) else value
