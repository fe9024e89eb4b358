"""Full-text search over records: the projection that fills the indexes, and the verb that asks them.

Hits are hydrated from the records at the moment of the search, so a deleted, expired or erased record is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from palaver.clock import to_us
from palaver.entity import Entity
from palaver.errors import Expression, TenantMismatch, Validation, did_you_mean
from palaver.expr import And, Compare, Condition, In, Path
from palaver.ops import REVISION, Address, Change, Op, is_live
from palaver.ports import Restarts, SearchDoc, SearchFilter, SearchHit, SearchQuery, SearchSpec
from palaver.reading import filled
from palaver.schema import TENANT, CompiledSearch, CompiledSource
from palaver.values import MAX_INT, KeyPart, Record, Scalar

if TYPE_CHECKING:
    from palaver.core import Core

FILL = 200
_OPS = {"==": "==", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True, slots=True)
class Hit:
    """One record found: how well it matches, and its searched texts with the matches marked."""

    entity: Entity
    score: float
    highlights: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Results:
    """Hits best first, the number of all matches the index knows, and counts per facet value."""

    hits: Sequence[Hit]
    total: int
    facets: Mapping[str, Mapping[Scalar, int]]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


def spec_of(search: CompiledSearch) -> SearchSpec:
    """Return what a search engine has to build for a declared search."""
    return SearchSpec(search.name, search.text, dict(search.filters), required=search.required)


def document_id(at: Address) -> str:
    return orjson.dumps([at.table, *({"b": part.hex()} if isinstance(part, bytes) else part for part in at.key)]).decode()


def document_address(id: str) -> Address:
    table, *key = orjson.loads(id)
    return Address(table, tuple(bytes.fromhex(part["b"]) if isinstance(part, dict) else part for part in key))


def document(source: CompiledSource, at: Address, record: Record) -> SearchDoc:
    text = {name: "\n".join(found) for name, path in source.text if (found := [str(value) for value in _values(record, path)])}
    filters: dict[str, Scalar | Sequence[Scalar]] = {"_entity": source.declared.name}
    if source.declared.tenant is not None:
        filters[TENANT] = record[source.declared.tenant.stored]  # type: ignore[assignment]
    for name, path, kind in source.filters:
        values = [float(value) if kind == "float" else value for value in _values(record, path)]
        if values:
            filters[name] = values[0] if len(values) == 1 else values
    return SearchDoc(document_id(at), record[REVISION], text, filters)  # type: ignore[arg-type]


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield the scalars at a path, through lists and sets."""
    if isinstance(value, list | frozenset):
        for element in value:
            yield from _values(element, path)
    elif not path:
        if value is not None and not isinstance(value, dict):
            yield value
    elif isinstance(value, Mapping):
        yield from _values(value.get(path[0]), path[1:])


class SearchProjection:
    """Keeps every declared search index equal to the records."""

    name = "search"

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sources: dict[str, list[tuple[str, CompiledSource]]] = {}
        for search in core.schema.searches.values():
            for source in search.sources:
                self._sources.setdefault(source.declared.table.name, []).append((search.name, source))

    @property
    def tables(self) -> list[str]:
        return list(self._sources)

    async def prepare(self) -> list[str]:
        """Make the indexes exist; return those that have to be filled."""
        return await self._core.search.apply([spec_of(search) for search in self._core.schema.searches.values()])

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        addresses = list(dict.fromkeys(Address(change.table, change.key) for change in changes if change.table in self._sources))
        if addresses:
            await self._index(addresses, await self._core.records.get(addresses))
        return ()

    async def _index(self, addresses: Sequence[Address], records: Sequence[Record | None]) -> None:
        now_us = to_us(self._core.clock.now())
        put: dict[str, list[SearchDoc]] = {}
        gone: dict[str, list[str]] = {}
        for at, record in zip(addresses, records, strict=True):
            for index, source in self._sources[at.table]:
                if record is not None and is_live(source.declared.table, record, now_us):
                    put.setdefault(index, []).append(document(source, at, record))
                else:
                    gone.setdefault(index, []).append(document_id(at))
        for index, docs in put.items():
            await self._core.search.put(index, docs)
        for index, ids in gone.items():
            await self._core.search.delete(index, ids)

    async def restart(self) -> None:
        """Empty the indexes, whatever state they are in: what is damaged cannot be put right by putting more into it."""
        if isinstance(self._core.search, Restarts):
            for search in self._core.schema.searches:
                await self._core.search.restart(search)

    async def rebuild(self) -> None:
        """Put every live record, then remove documents whose record is gone."""
        for table in self._sources:
            after: tuple[KeyPart, ...] | None = None
            while True:
                page = await self._core.records.scan(table, after=after, limit=FILL)
                key = self._core.schema.tables[table].table.key
                addresses = [Address(table, tuple(record[name] for name in key)) for record in page.records]  # type: ignore[misc]
                await self._index(addresses, page.records)
                if page.last is None:
                    break
                after = page.last
        for search in self._core.schema.searches:
            await self._reconcile(search)
        await self.activate()

    async def activate(self) -> None:
        """Swap freshly filled indexes in, on engines that build beside the old one."""
        activate = getattr(self._core.search, "activate", None)
        if activate is not None:
            for search in self._core.schema.searches:
                await activate(search)

    async def _reconcile(self, index: str) -> None:
        after = ""
        now_us = to_us(self._core.clock.now())
        while ids := await self._core.search.ids(index, after, FILL):
            addresses = [document_address(id) for id, _ in ids]
            records = await self._core.records.get(addresses)
            gone = [
                id
                for (id, _), at, record in zip(ids, addresses, records, strict=True)
                if not is_live(self._core.schema.tables[at.table].table, record, now_us)
            ]
            if gone:
                await self._core.search.delete(index, gone)
            after = ids[-1][0]


async def search(
    core: Core,
    tenant: str | None,
    index: str,
    text: str,
    *,
    where: Condition | None = None,
    facets: Sequence[str] = (),
    limit: int = 20,
    offset: int = 0,
    newest_first: str | None = None,
) -> Results:
    """Ask one index and hydrate its hits; see `Store.search`."""
    declared = core.schema.searches.get(index)
    if declared is None:
        known = did_you_mean(index, core.schema.searches) or "Declare it: Schema(…, searches=[Search(…)])."
        raise Expression(f"Schema {core.schema.name} has no search index {index}.", hint=known)
    if type(limit) is not int or type(offset) is not int or not 1 <= limit <= 1000 or not 0 <= offset <= MAX_INT:
        raise Validation("A search takes a limit of 1 to 1,000 and an offset of 0 or more.")
    for name in (*facets, *((newest_first,) if newest_first else ())):
        _known(declared, name)
    filters = tuple(_filters(declared, where)) if where is not None else ()
    page = await core.search.search(
        index, SearchQuery(text, filters + _tenant_filter(tenant, declared), tuple(facets), limit, offset, newest_first)
    )
    return Results(await _hydrated(core, tenant, declared, text, page.hits), page.total, page.facets)


async def _hydrated(core: Core, tenant: str | None, search: CompiledSearch, text: str, found: Sequence[SearchHit]) -> list[Hit]:
    """Return the hits whose records are still there, with these as they are now."""
    from palaver.search.excerpt import highlight

    sources = {source.declared.table.name: source for source in search.sources}
    addresses = [document_address(hit.id) for hit in found]
    records = await core.records.get(addresses) if addresses else []
    now_us = to_us(core.clock.now())
    hits: list[Hit] = []
    for hit, at, record in zip(found, addresses, records, strict=True):
        source = sources[at.table]
        # An index is no authority on whose a record is.
        if record is None or not is_live(source.declared.table, record, now_us) or not _is_own(tenant, source, at):
            continue
        texts = document(source, at, record).text
        marked = {name: highlight(value, text) for name, value in texts.items()}
        codec = core.planner.codec(source.declared.entity)
        if whole := await filled(core, tenant, codec, [codec.decode(record)]):
            hits.append(Hit(whole[0], hit.score, {name: value for name, value in marked.items() if value}))
    return hits


def _is_own(tenant: str | None, source: CompiledSource, at: Address) -> bool:
    return source.declared.tenant is None or at.key[0] == tenant


def _tenant_filter(tenant: str | None, search: CompiledSearch) -> tuple[SearchFilter, ...]:
    if TENANT not in search.filters:
        return ()
    if tenant is None:
        raise TenantMismatch("This search belongs to tenants and the store is bound to none.", hint="Use store.for_tenant(…).")
    return (SearchFilter(TENANT, "==", tenant),)


def _known(search: CompiledSearch, name: str) -> None:
    known = [each for each in search.filters if each != TENANT]
    if name not in known:
        raise Expression(f"Search {search.name} has no filter {name}.", hint=did_you_mean(name, known))


def _filters(search: CompiledSearch, where: Condition) -> Iterator[SearchFilter]:
    match where:
        case And(conditions):
            for part in conditions:
                yield from _filters(search, part)
        case Compare(path, op, value) if op in _OPS:
            yield SearchFilter(path.name, op, _encoded(search, path, value))  # type: ignore[arg-type]
        case In(path, values):
            yield SearchFilter(path.name, "in", [_encoded(search, path, value) for value in values])
        case _:
            raise Expression("A search narrows by ==, <, <=, >, >=, is_in and &.", hint="Filter the hits for anything else.")


def _encoded(search: CompiledSearch, path: Path, value: Any) -> Any:
    _known(search, path.name)
    for source in search.sources:
        if any(name == path.name for name, _, _ in source.filters):
            try:
                _, encode = source.declared.entity.locate(path)
            except Expression:
                return value
            return encode(value, "==")
    return value
