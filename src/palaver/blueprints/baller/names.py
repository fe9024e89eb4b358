"""Names as people write them, folded to the form they are looked up by, and endpoints folded to their template."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

LONGEST = 200
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_DROPPED = frozenset(".'’‘ʼ´`")
_IDENTIFIER = re.compile(r"[0-9]+|[0-9a-fA-F-]{16,}")


def normalized(name: str) -> str:
    """Return the form a name is looked up by: NFKC, case folded, accents and punctuation removed, single spaces.

    A name of punctuation alone stays as it is, so that the form is never empty; a very long one ends in a hash.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Only the accents of Latin, Greek and Cyrillic: in other scripts a combining mark is part of the letter.
    bare = "".join(c for c in unicodedata.normalize("NFD", folded) if not "\u0300" <= c <= "\u036f")
    words = "".join(_spaced(c) for c in unicodedata.normalize("NFC", bare).translate(_LETTERS))
    return shortened(" ".join(words.split()) or folded.strip() or name)


def _spaced(character: str) -> str:
    if character in _DROPPED:
        return ""
    return " " if unicodedata.category(character)[0] in "PZC" else character


def endpoint_template(endpoint: str) -> str:
    """Return what an endpoint is grouped by: its path without query, numbers and long identifiers replaced."""
    path = endpoint.split("?", 1)[0].split("#", 1)[0]
    segments = ["{id}" if _IDENTIFIER.fullmatch(segment) else segment for segment in path.split("/")]
    return shortened("/".join(segments) or "/")


def shortened(text: str) -> str:
    """Return a text that fits a key: itself, or its beginning and a hash of the whole."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}~{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
