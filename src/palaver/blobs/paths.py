"""Where a blob lies: any key as a path that is safe on every file system and object store, and back.

A path holds only `a-z 0-9 - _ . = /`, so that no key leaves its folder and no two keys meet: not `A` and `a` on a
file system that folds case, not `é` composed and decomposed, not `a` the object and `a` the folder above `a/b`.
"""

from __future__ import annotations

import re

from palaver.errors import KeyTooLong

MAX_PATH = 1_024

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_ESCAPED = re.compile(rb"=([0-9a-f]{2})")
_HASH = re.compile(r"[0-9a-f]{64}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")

# Three characters a byte at most, and file systems allow 255. A name of exactly this many bytes goes on in an empty one:
# so no name is also the beginning of a longer one, and folders list in the order of their keys.
_PIECE = 66


def path_of(key: str) -> str:
    """Return the path of a key: reversible, and no two keys share one or need one name for a file and a folder.

    A lower-case ASCII key ending in a SHA-256 is its own path. Raises KeyTooLong over 1,024 bytes, the limit of S3.
    """
    *folders, name = key.split("/")
    pieces = _pieces(name)
    if not _HASH.fullmatch(name):
        pieces[-1] += "=o"
    path = folder_of(folders) + "/".join(pieces)
    if len(path) > MAX_PATH:
        raise KeyTooLong(f"A blob key takes {len(path):,} bytes as a path; the most is {MAX_PATH:,}.", hint="Shorten its parts.")
    return path


def folder_of(segments: list[str]) -> str:
    """Return the path of the folder these whole segments name, with its final slash; "" for none."""
    path = ""
    for segment in segments:
        pieces = _pieces(segment)
        if _HASH.fullmatch(segment):
            pieces[0] = _first_escaped(pieces[0])
        path += "/".join(pieces) + "/"
    return path


def key_of(path: str) -> str | None:
    """Return the key of a path, or None for a file that no key leads to."""
    try:
        key = _read(path.removesuffix("=o")).decode("utf-8", "surrogatepass")
        return key if path_of(key) == path else None
    except (UnicodeDecodeError, KeyTooLong):
        return None


def prefix_of(folder: str) -> bytes:
    """Return the bytes with which every key inside a folder begins."""
    return _read(folder + "/")


def key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _pieces(segment: str) -> list[str]:
    """Return a segment as one or more names; a name that goes on in the next ends with `=`."""
    if not segment:
        return ["="]
    raw = key_bytes(segment)
    units = [chr(byte) if byte in _PLAIN else f"={byte:02x}" for byte in raw]
    if units[-1] == ".":
        units[-1] = "=2e"  # Windows drops a final dot
    pieces = []
    while len(units) >= _PIECE:
        pieces.append("".join(units[:_PIECE]) + "=")
        del units[:_PIECE]
    pieces.append("".join(units) or "=")
    return [_first_escaped(piece) if piece.startswith(".") or _RESERVED.match(piece) else piece for piece in pieces]


def _first_escaped(piece: str) -> str:
    return piece if piece.startswith("=") else f"={ord(piece[0]):02x}{piece[1:]}"


def _read(path: str) -> bytes:
    segments = [b""]
    *folders, name = path.encode().split(b"/")
    for folder in folders:
        if folder.endswith(b"=") and folder != b"=":
            segments[-1] += folder[:-1]
        else:
            segments[-1] += folder.removesuffix(b"=")
            segments.append(b"")
    segments[-1] += name if name != b"=" else b""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), b"/".join(segments))
