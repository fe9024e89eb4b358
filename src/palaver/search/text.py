"""Text as a search sees it: folded and cut into tokens; what a person typed as terms.

Every function is total: it takes any text and never raises. Engines index `tokens` and look for the tokens of `parse`,
so that they all find the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from unicodedata import category, combining, decimal, normalize

MAX_TYPED = 4_000
MAX_TERMS = 32
MAX_PHRASE = 64
MAX_TOKEN = 64

_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))
_TYPED = re.compile(r'(?P<sign>(?<!\S)-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


class Term(NamedTuple):
    """Tokens that follow each other; with `prefix` the last one only begins like that; `without`: must not be there."""

    tokens: tuple[str, ...]
    prefix: bool = False
    without: bool = False


def parse(typed: str) -> tuple[Term, ...]:
    """Return the terms of what a person typed: words, "a phrase", a prefix*, -without.

    A word that is several tokens (an address, a word in a script without spaces) is a phrase. Anything else separates words.
    Looks at the first 4,000 characters, 32 terms and 64 tokens a term.
    """
    terms: dict[Term, None] = {}
    for match in _TYPED.finditer(typed[:MAX_TYPED].translate(_QUOTES)):
        word = match["word"] or ""
        found = tokens(match["phrase"] or word)
        # Where the typing is cut, a word may be.
        prefix = word.endswith("*") or match.end() == MAX_TYPED < len(typed)
        # "--verbose" is a word; the sign alone, or before nothing that can be looked for, is nothing.
        without = bool(match["sign"]) and not word.startswith("-")
        if found:
            terms[Term(tuple(found[:MAX_PHRASE]), prefix, without)] = None
        if len(terms) == MAX_TERMS:
            break
    return tuple(terms)


def quoted(text: str) -> str:
    """Return what to type to look for a text as it is, whatever is in it: one phrase."""
    return '"' + text.translate(_QUOTES).replace('"', " ") + '"'


def tokens(text: str) -> list[str]:
    """Return the tokens of a text: words without case and accents; one for each character where a script has no spaces."""
    if text.isascii():
        words = text.encode().translate(_ASCII).decode().split()
    elif len(text) <= _AT_ONCE and not _COMPOSING.search(text):
        words = normalize("NFKD", text).translate(_BOTH).split()
    else:
        words = _fold(text).translate(_CUT).split()
    if len(text) <= MAX_TOKEN:
        return words
    return [word[start : start + MAX_TOKEN] for word in words for start in range(0, len(word), MAX_TOKEN)]


class Token(NamedTuple):
    text: str
    start: int
    end: int


def spans(text: str) -> list[Token]:
    """Return the tokens of a text with the places they come from."""
    found: list[Token] = []
    word, start, end = "", 0, 0
    for first, last in _clusters(text):
        for character in _fold(text[first:last]).translate(_CUT):
            if character == " " or len(word) == MAX_TOKEN:
                if word:
                    found.append(Token(word, start, end))
                word = ""
            if character != " ":
                start = start if word else first
                word += character
                end = last
    if word:
        found.append(Token(word, start, end))
    return found


# --- folding --------------------------------------------------------------------------------------------------------

# Accents, Hebrew and Arabic points, and what only shapes a character. Vowel signs of Indic scripts are not accents.
_DROPPED = (
    (0x300, 0x36F), (0x483, 0x489), (0x591, 0x5BD), (0x5BF, 0x5BF), (0x5C1, 0x5C2), (0x5C4, 0x5C5), (0x5C7, 0x5C7),
    (0x610, 0x61A), (0x640, 0x640), (0x64B, 0x65F), (0x670, 0x670), (0x6D6, 0x6DC), (0x6DF, 0x6E4), (0x6E7, 0x6E8),
    (0x6EA, 0x6ED), (0x180B, 0x180F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F), (0xE0100, 0xE01EF),
)  # fmt: skip

# Letters that are variants of others to people who search, though not to Unicode.
_VARIANTS = {
    "ı": "i", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l", "đ": "d", "Đ": "d", "æ": "ae", "Æ": "ae", "œ": "oe", "Œ": "oe",
    "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه",
}  # fmt: skip

# Scripts written without spaces, and Hangul, whose words carry their particles: one token a character, and a word typed
# is a phrase, so that it is found inside longer ones.
_ONE_BY_ONE = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x2E80, 0x2FDF),
    (0x3005, 0x3007), (0x3021, 0x302F), (0x3031, 0x318F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x1AFF0, 0x1B2FF), (0x1F000, 0x1FBFF), (0x20000, 0x3FFFF),
)  # fmt: skip


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


class _Folding(dict[int, str]):
    """What becomes of a decomposed character; kept once it was asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _within(code, _DROPPED):
            folded = ""
        elif category(character) == "Nd":
            folded = str(decimal(character))
        else:
            folded = _VARIANTS.get(character, character)
        self[code] = folded
        return folded


class _Cutting(dict[int, str]):
    """A folded character as part of a word, as a token of its own between spaces, as nothing, or as a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = category(character)
        if kind[0] in "LNM" or kind in ("Co", "So") or (kind == "Cn" and code & 0xFFFE != 0xFFFE) or 0x1F3FB <= code <= 0x1F3FF:
            alone = kind == "So" or _within(code, _ONE_BY_ONE)
            cut = f" {character} " if alone else character
        elif kind == "Cf" and code != 0x200B:
            cut = ""  # joiners, soft hyphens, marks of direction: nobody sees or types them
        else:
            cut = " "
        self[code] = cut
        return cut


class _FoldingAndCutting(dict[int, str]):
    """Folding and cutting at once, for scripts in which nothing is left to be composed after folding."""

    def __missing__(self, code: int) -> str:
        cut = _FOLD[code].casefold().translate(_CUT)
        self[code] = cut
        return cut


_FOLD = _Folding()
_CUT = _Cutting()
_BOTH = _FoldingAndCutting()
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() and code < 128 else 32 for code in range(256))
_COMPOSING = re.compile("[\u0900-\U0010ffff]")

# Sorting a long run of combining marks takes time quadratic in its length: long texts are folded in pieces. A piece ends
# before a space or ASCII, or after 400 other characters and whatever composes with the last of them.
_PIECES = re.compile(r"[\0-\x7f]+|[^\0-\x7f]{1,400}[\u3099\u309a\u1160-\u11ff\u3131-\u318e\uff9e-\uffdc]{0,4}")
_AT_ONCE = 1_000


def _fold(text: str) -> str:
    if len(text) > _AT_ONCE:
        return "".join(map(_fold_piece, _PIECES.findall(text)))
    return _fold_piece(text)


def _fold_piece(text: str) -> str:
    return normalize("NFC", normalize("NFKD", text).translate(_FOLD).casefold())


def _clusters(text: str) -> list[tuple[int, int]]:
    """Return the pieces that fold by themselves: a character and what combines with it."""
    found = []
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _combines(text[place]):
            found.append((start, place))
            start = place
    return found if text else []


def _combines(character: str) -> bool:
    if character < "\u0300":
        return False
    # Vowels and finals of Hangul in their three encodings, and half-width marks of Kana, compose though they are letters.
    if "\u1160" <= character <= "\u11ff" or "\u3131" <= character <= "\u318e" or "\uff9e" <= character <= "\uffdc":
        return True
    if combining(character):
        return True
    return category(character)[0] == "M"
