"""Search in memory: every document is looked at. The specification of the others, and their oracle in tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from palaver.errors import ConfigError
from palaver.ports import SearchDoc, SearchHit, SearchPage, SearchQuery, SearchSpec
from palaver.search.rules import Asked, Stored, Wanted, asked, check_spec, facet, filters_of, unknown_index, version_of
from palaver.search.text import Term, tokens

_K1, _B = 1.2, 0.75


@dataclass(frozen=True, slots=True)
class _Doc:
    id: str
    revision: int
    fields: tuple[list[str], ...]
    filters: Mapping[str, tuple[Stored, ...]]

    def one(self, name: str) -> Stored | None:
        values = self.filters.get(name, ())
        return values[0] if len(values) == 1 else None


@dataclass(slots=True)
class _Index:
    spec: SearchSpec
    docs: dict[str, _Doc] = field(default_factory=dict)


@dataclass(slots=True)
class _Versions:
    """The index that is searched and the one being filled; at least one of them is there."""

    active: _Index | None
    filling: _Index | None

    def all(self) -> list[_Index]:
        return [index for index in (self.active, self.filling) if index]


class MemorySearch:
    """`ports.SearchIndex` for the memory stack."""

    def __init__(self) -> None:
        self._indexes: dict[str, _Versions] = {}
        self._closed = False

    async def put(self, index: str, docs: Sequence[SearchDoc]) -> None:
        made = [(one, _made(one.spec, doc)) for one in self._versions(index).all() for doc in docs]
        for one, new in made:
            stored = one.docs.get(new.id)
            if stored is None or stored.revision < new.revision:
                one.docs[new.id] = new

    async def delete(self, index: str, ids: Sequence[str]) -> None:
        for one in self._versions(index).all():
            for id in ids:
                one.docs.pop(id, None)

    async def search(self, index: str, query: SearchQuery) -> SearchPage:
        versions = self._versions(index)
        searched = versions.active or versions.filling
        if searched is None:
            raise unknown_index()
        question = asked(searched.spec, query)
        found = [doc for doc in searched.docs.values() if _matches(doc, question)]
        scores = _scores(searched.docs.values(), found, question.terms)
        found.sort(key=lambda doc: (-scores[doc.id], doc.id))
        if query.newest_first is not None:
            found = _newest_first(found, query.newest_first)
        hits = [SearchHit(doc.id, scores[doc.id]) for doc in found[query.offset : query.offset + query.limit]]
        facets = {
            name: facet(searched.spec.filters[name], ((value, 1) for doc in found for value in doc.filters.get(name, ())))
            for name in query.facets
        }
        return SearchPage(hits, len(found), facets)

    async def ids(self, index: str, after: str, limit: int) -> list[tuple[str, int]]:
        versions = self._versions(index)
        docs = (versions.filling or versions.all()[0]).docs
        return [(id, docs[id].revision) for id in sorted(id for id in docs if id > after)[:limit]]

    async def visible(self, index: str) -> None:
        self._versions(index)

    async def apply(self, specs: Sequence[SearchSpec]) -> list[str]:
        for spec in specs:
            check_spec(spec)
        self._check()
        self._indexes = {spec.name: self._renewed(spec) for spec in specs}
        return [name for name, versions in self._indexes.items() if versions.filling]

    async def activate(self, index: str) -> None:
        versions = self._versions(index)
        if versions.filling:
            self._indexes[index] = _Versions(versions.filling, None)

    async def aclose(self) -> None:
        self._closed = True

    def _renewed(self, spec: SearchSpec) -> _Versions:
        old = self._indexes.get(spec.name, _Versions(None, None))
        if old.active and version_of(old.active.spec) == version_of(spec):
            return _Versions(old.active, None)
        if old.filling and version_of(old.filling.spec) == version_of(spec):
            return old
        return _Versions(old.active, _Index(spec))

    def _versions(self, index: str) -> _Versions:
        self._check()
        if index not in self._indexes:
            raise unknown_index()
        return self._indexes[index]

    def _check(self) -> None:
        if self._closed:
            raise ConfigError("The search index is closed.")


def _made(spec: SearchSpec, doc: SearchDoc) -> _Doc:
    return _Doc(doc.id, doc.revision, tuple(tokens(doc.text.get(name, "")) for name in spec.text), filters_of(spec, doc))


def _matches(doc: _Doc, question: Asked) -> bool:
    return (
        all(_passes(doc.filters.get(one.field, ()), one) for one in question.filters)
        and all(_count(doc, term) for term in question.terms)
        and not any(_count(doc, term) for term in question.without)
    )


def _passes(values: Sequence[Stored], wanted: Wanted) -> bool:
    return any(_compares(value, wanted) for value in values)


def _compares(value: Stored, wanted: Wanted) -> bool:
    if wanted.op in ("==", "in"):
        return value in wanted.values
    limit = wanted.values[0]
    # Both are of the field's kind, so that they compare.
    match wanted.op:
        case ">=":
            return value >= limit  # type: ignore[operator]
        case ">":
            return value > limit  # type: ignore[operator]
        case "<=":
            return value <= limit  # type: ignore[operator]
        case _:
            return value < limit  # type: ignore[operator]


def _count(doc: _Doc, term: Term) -> int:
    """Return how often the term is there; it does not reach from one field into the next."""
    width = len(term.tokens)
    return sum(
        _same(words[start : start + width], term)
        for words in doc.fields
        for start in range(len(words) - width + 1)
        if words[start].startswith(term.tokens[0])
    )


def _same(words: list[str], term: Term) -> bool:
    if term.prefix:
        return words[:-1] == list(term.tokens[:-1]) and words[-1].startswith(term.tokens[-1])
    return words == list(term.tokens)


def _scores(docs: Iterable[_Doc], found: Sequence[_Doc], terms: Sequence[Term]) -> dict[str, float]:
    """Return BM25 as FTS5 computes it."""
    scores = dict.fromkeys((doc.id for doc in found), 0.0)
    if not terms or not found:
        return scores
    everything = list(docs)
    lengths = {doc.id: sum(map(len, doc.fields)) for doc in everything}
    average = sum(lengths.values()) / len(everything)
    for term in terms:
        having = sum(bool(_count(doc, term)) for doc in everything)
        weight = max(math.log((len(everything) - having + 0.5) / (having + 0.5)), 1e-6)
        for doc in found:
            times = _count(doc, term)
            scores[doc.id] += weight * times * (_K1 + 1) / (times + _K1 * (1 - _B + _B * lengths[doc.id] / average))
    return scores


def _newest_first(found: Sequence[_Doc], name: str) -> list[_Doc]:
    """Return documents by a field, the greatest first, equal ones by id; those without one value of it come last."""
    by_id = sorted(found, key=lambda doc: doc.id)
    having = [doc for doc in by_id if doc.one(name) is not None]
    having.sort(key=lambda doc: doc.one(name), reverse=True)  # type: ignore[arg-type,return-value]
    return [*having, *(doc for doc in by_id if doc.one(name) is None)]
