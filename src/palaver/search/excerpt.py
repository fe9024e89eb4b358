"""An excerpt of a text around what a search found in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from unicodedata import category

from palaver.search.text import Term, Token, parse, spans

MAX_LOOKED_AT = 50_000
ELLIPSIS = "…"
_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Excerpt(NamedTuple):
    """Plain text on one line, and the places in it that match, in order and apart."""

    text: str
    marks: tuple[tuple[int, int], ...]

    def marked(self, before: str = "**", after: str = "**", *, escape: Callable[[str], str] = str) -> str:
        """Return the text with its matches between marks; `escape` (such as `html.escape`) is applied to the text, not to marks."""
        parts, place = [], 0
        for start, end in self.marks:
            parts += [escape(self.text[place:start]), before, escape(self.text[start:end]), after]
            place = end
        return "".join([*parts, escape(self.text[place:])])


def excerpt(text: str, typed: str, *, length: int = 160) -> Excerpt:
    """Return about `length` characters of a text around the first matches of what was typed, or its beginning.

    Control characters become spaces and marks of direction go, so that it can stand in any line. Never raises; looks at the
    first 50,000 characters.
    """
    line = _line(text[:MAX_LOOKED_AT])
    found = spans(line)
    matches = _matches(found, [term for term in parse(typed) if not term.without])
    start, end = _window(line, found, matches[0][0] if matches else 0, max(length, 1))
    lead = ELLIPSIS if start else ""
    shown = lead + line[start:end] + (ELLIPSIS if end < len(line) or len(text) > MAX_LOOKED_AT else "")
    shift = len(lead) - start
    return Excerpt(shown, tuple((first + shift, last + shift) for first, last in matches if start <= first and last <= end))


def highlight(
    text: str, typed: str, *, length: int = 160, marks: tuple[str, str] = ("**", "**"), escape: Callable[[str], str] = str
) -> str:
    """Return the excerpt with its matches marked; for HTML: `marks=("<mark>", "</mark>"), escape=html.escape`."""
    return excerpt(text, typed, length=length).marked(*marks, escape=escape)


def _line(text: str) -> str:
    kinds = {character: category(character) for character in set(text)}
    plain = {ord(character): " " for character, kind in kinds.items() if kind in ("Cc", "Cs", "Zl", "Zp")}
    # Marks of direction reach beyond the text they stand in. Joiners stay: emoji fall apart without them.
    plain |= {ord(character): "" for character in kinds if character in _DIRECTION}
    return " ".join(text.translate(plain).split())


def _matches(found: Sequence[Token], terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Return where the terms are, from the start of their first token to the end of their last, merged where they touch."""
    places: dict[str, list[int]] = {}
    for place, token in enumerate(found):
        places.setdefault(token.text, []).append(place)
    matches: list[tuple[int, int]] = []
    for term in terms:
        first, *rest = term.tokens
        only = term.prefix and not rest
        starts = [place for text, at in places.items() if text.startswith(first) for place in at] if only else places.get(first, [])
        matches += [(found[place].start, found[place + len(rest)].end) for place in starts if _follow(found, place, term)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(matches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _follow(found: Sequence[Token], place: int, term: Term) -> bool:
    here = [token.text for token in found[place : place + len(term.tokens)]]
    if len(here) < len(term.tokens) or here[:-1] != list(term.tokens[:-1]):
        return False
    return here[-1].startswith(term.tokens[-1]) if term.prefix else here[-1] == term.tokens[-1]


def _window(line: str, found: Sequence[Token], match: int, length: int) -> tuple[int, int]:
    """Return where to cut: a quarter of the length before the match, at tokens, never inside one but the very long."""
    if len(line) <= length:
        return 0, len(line)
    earliest = max(0, min(match - length // 4, len(line) - length))
    start = 0 if not earliest else min((token.start for token in found if earliest <= token.start <= match), default=earliest)
    latest = start + length
    if latest >= len(line):
        return start, len(line)
    end = max((token.end for token in found if match < token.end <= latest and token.start >= start), default=latest)
    return start, end
