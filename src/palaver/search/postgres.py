"""Full text in the PostgreSQL database of the records. The tables and statements are in `postgres_layout.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

from palaver.connections.postgres import Connection, Pool
from palaver.connections.postgres_isolation import protect
from palaver.errors import ConfigError, NotProvisioned
from palaver.ports import SearchDoc, SearchHit, SearchPage, SearchQuery, SearchSpec
from palaver.search.chunks import chunks, text_length
from palaver.search.postgres_layout import Layout, Registry, tail
from palaver.search.rules import asked, check_spec, dumps, facet, loads, unknown_index, version_of

# What is stored in one commit, and how much text makes it worth another thread to cut it into tokens.
_DOCS = 500
_CHARACTERS = 1_000_000
_PREPARED_INLINE = 50_000

# Whoever makes or drops indexes waits for others who do.
_APPLYING = 0x70616C_73656172


_Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Any]]]


class _Versions(NamedTuple):
    """The index that is searched and the one being filled; at least one of them is there."""

    active: Layout | None
    filling: Layout | None

    def all(self) -> list[Layout]:
        return [layout for layout in self if layout is not None]

    @property
    def searched(self) -> Layout:
        return self.all()[0]

    @property
    def newest(self) -> Layout:
        return self.all()[-1]

    @property
    def numbers(self) -> tuple[int | None, int | None]:
        return self.active.number if self.active else None, self.filling.number if self.filling else None


_NOTHING = _Versions(None, None)


class PostgresSearch:
    """`ports.SearchIndex` on one `Pool`, which stays the caller's to close.

    A version of an index is a table with a number of its own, dropped in the commit that replaces it: what is known here of
    an index holds as long as its table is there, and who writes makes sure of it first.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._registry = Registry(pool.options.schema)
        self._known: dict[str, _Versions] = {}
        self._closed = False

    async def put(self, index: str, docs: Sequence[SearchDoc]) -> None:
        """Store documents, a chunk a commit: what came before an error stays, and putting again is harmless."""
        versions = await self._versions(index)
        for some in chunks(docs, _DOCS, _CHARACTERS):
            prepared = await _prepared(versions, some)
            while not await self._write(index, versions, [(layout.put, (rows,)) for layout, rows in prepared]):
                versions = await self._renewed(index)
                prepared = await _prepared(versions, some)

    async def delete(self, index: str, ids: Sequence[str]) -> None:
        versions = await self._versions(index)
        for start in range(0, len(ids), _DOCS):
            some = list(dict.fromkeys(ids[start : start + _DOCS]))
            values = some, [tail(id) for id in some]
            while not await self._write(index, versions, [(layout.delete, values) for layout in versions.all()]):
                versions = await self._renewed(index)

    async def _write(self, index: str, versions: _Versions, statements: Sequence[tuple[str, Sequence[Any]]]) -> bool:
        """Run statements on the versions they were made for, one writer of an index at a time; False if there are others now."""
        async with self._pool.transaction() as connection:
            rows = await connection.fetch(
                f"SELECT active, filling FROM {self._registry.indexes} WHERE name = $1::text FOR NO KEY UPDATE", index
            )
            if [versions.numbers] != [tuple(row) for row in rows]:
                return False
            for text, values in statements:
                await connection.execute(text, *values)
        return True

    async def search(self, index: str, query: SearchQuery) -> SearchPage:
        try:
            return await self._search((await self._versions(index)).searched, query)
        except NotProvisioned:  # another process may have replaced the version that was known here
            return await self._search((await self._renewed(index)).searched, query)

    async def _search(self, layout: Layout, query: SearchQuery) -> SearchPage:
        statement = layout.search(asked(layout.spec, query), query)
        [row] = await self._pool.read(statement.text, *statement.values)
        total, hits, *facets = row
        kinds = layout.spec.filters
        counted = {field: facet(kinds[field], _pairs(counts)) for field, counts in zip(query.facets, facets, strict=True)}
        return SearchPage([SearchHit(id, score) for id, score in _pairs(hits)], total, counted)

    async def ids(self, index: str, after: str, limit: int) -> list[tuple[str, int]]:
        rows = await self._pool.read((await self._renewed(index)).newest.ids, after, limit)
        return [(id, revision) for id, revision in rows]

    async def visible(self, index: str) -> None:
        """Return at once: a put is found as soon as it is acknowledged."""
        await self._versions(index)

    async def apply(self, specs: Sequence[SearchSpec]) -> list[str]:
        for spec in specs:
            check_spec(spec)
        self._check()
        declared = {spec.name: spec for spec in specs}
        stored = await self._read()
        # Most processes find the indexes as they need them, and need no right to change them.
        if stored.keys() != declared.keys() or not all(_fits(stored[name], spec) for name, spec in declared.items()):
            async with self._pool.transaction() as connection:
                stored = await _Change(self._registry, connection).apply(declared)
                await protect(connection, self._registry.schema, {}, begin=self._pool.options.rls)
        self._known = dict(stored)
        return [name for name in declared if stored[name].filling]

    async def activate(self, index: str) -> None:
        await self._versions(index)
        async with self._pool.transaction() as connection:
            change = _Change(self._registry, connection)
            versions = await change.locked(index)
            if versions.filling:
                await change.replace(index, versions, _Versions(versions.filling, None))
        self._known.pop(index, None)

    async def restart(self, index: str) -> None:
        await self._versions(index)
        async with self._pool.transaction() as connection:
            change = _Change(self._registry, connection)
            versions = await change.locked(index)
            await change.replace(index, versions, _Versions(None, await change.made(versions.newest.spec)))
            await protect(connection, self._registry.schema, {}, begin=self._pool.options.rls)
        self._known.pop(index, None)

    async def aclose(self) -> None:
        self._closed = True

    async def _versions(self, index: str) -> _Versions:
        self._check()
        return self._known.get(index) or await self._renewed(index)

    async def _renewed(self, index: str) -> _Versions:
        self._check()
        self._known.pop(index, None)
        self._known |= await self._read(index)
        if index not in self._known:
            raise unknown_index()
        return self._known[index]

    async def _read(self, index: str | None = None) -> dict[str, _Versions]:
        try:
            return await _stored(self._registry, self._pool.read, index)
        except NotProvisioned:  # nothing was ever made
            return {}

    def _check(self) -> None:
        if self._closed:
            raise ConfigError("The search index is closed.")


# --- preparing ------------------------------------------------------------------------------------------------------


async def _prepared(versions: _Versions, docs: Sequence[SearchDoc]) -> list[tuple[Layout, str]]:
    if text_length(docs) < _PREPARED_INLINE:
        return _prepare(versions, docs)
    return await asyncio.to_thread(_prepare, versions, docs)


def _prepare(versions: _Versions, docs: Sequence[SearchDoc]) -> list[tuple[Layout, str]]:
    """Return the rows for each version as JSON, one row an id: the first of those with the greatest revision."""
    prepared = []
    for layout in versions.all():
        newest: dict[str, dict[str, Any]] = {}
        for doc in docs:
            row = layout.row(doc)
            if doc.id not in newest or newest[doc.id]["revision"] < doc.revision:
                newest[doc.id] = row
        prepared.append((layout, orjson.dumps(list(newest.values())).decode()))
    return prepared


def _pairs(found: str | None) -> list[Any]:
    return orjson.loads(found) if found else []


# --- versions -------------------------------------------------------------------------------------------------------


async def _stored(registry: Registry, fetch: _Fetch, index: str | None = None) -> dict[str, _Versions]:
    """Return the versions of one index, or of all, by name."""
    text = (
        f"SELECT i.name, a.number, a.spec, a.version, f.number, f.spec, f.version FROM {registry.indexes} AS i "
        f"LEFT JOIN {registry.versions} AS a ON a.number = i.active LEFT JOIN {registry.versions} AS f ON f.number = i.filling"
    )
    rows = await fetch(f"{text} WHERE i.name = $1::text", index) if index is not None else await fetch(text)
    return {name: _Versions(_layout(registry, *found[:3]), _layout(registry, *found[3:])) for name, *found in rows}


def _layout(registry: Registry, number: int | None, spec: str, version: str) -> Layout | None:
    return None if number is None else Layout(registry, number, loads(spec), version)


def _kept(versions: _Versions, spec: SearchSpec) -> _Versions:
    """Return what stays of the versions of an index under its declaration."""
    if versions.active and versions.active.version == version_of(spec):
        return _Versions(versions.active, None)
    if versions.filling and versions.filling.version == version_of(spec):
        return versions
    return _Versions(versions.active, None)


def _fits(versions: _Versions, spec: SearchSpec) -> bool:
    return versions == _kept(versions, spec) and bool(versions.all()) and versions.newest.version == version_of(spec)


class _Change:
    """A transaction that makes, replaces and drops versions of indexes."""

    def __init__(self, registry: Registry, connection: Connection) -> None:
        self.registry = registry
        self.connection = connection

    async def apply(self, declared: Mapping[str, SearchSpec]) -> dict[str, _Versions]:
        """Make what is missing, drop what nobody declares any more, and return what there is then."""
        await self.connection.execute(f"SELECT pg_advisory_xact_lock({_APPLYING})")
        for statement in self.registry.ddl:
            await self.connection.execute(statement)
        await self.connection.execute(f"SELECT FROM {self.registry.indexes} ORDER BY name FOR UPDATE")
        stored = await _stored(self.registry, self.connection.fetch)
        for name in stored.keys() - declared.keys():
            await self.replace(name, stored[name], _NOTHING)
        renewed = {}
        for name, spec in sorted(declared.items()):
            old = stored.get(name, _NOTHING)
            new = _kept(old, spec)
            if not _fits(new, spec):
                new = _Versions(new.active, await self.made(spec))
            await self.replace(name, old, new)
            renewed[name] = new
        return renewed

    async def made(self, spec: SearchSpec) -> Layout:
        text = f"INSERT INTO {self.registry.versions} (spec, version) VALUES ($1::text, $2::text) RETURNING number"
        [row] = await self.connection.fetch(text, dumps(spec), version_of(spec))
        layout = Layout(self.registry, row[0], spec, version_of(spec))
        for statement in layout.ddl:
            await self.connection.execute(statement)
        return layout

    async def locked(self, index: str) -> _Versions:
        """Keep everybody else from changing an index or its documents until the commit."""
        await self.connection.execute(f"SELECT FROM {self.registry.indexes} WHERE name = $1::text FOR UPDATE", index)
        versions = (await _stored(self.registry, self.connection.fetch, index)).get(index)
        if versions is None:
            raise unknown_index()
        return versions

    async def replace(self, name: str, old: _Versions, new: _Versions) -> None:
        if old.numbers == new.numbers:
            return
        if new == _NOTHING:
            await self.connection.execute(f"DELETE FROM {self.registry.indexes} WHERE name = $1::text", name)
        else:
            text = (
                f"INSERT INTO {self.registry.indexes} (name, active, filling) VALUES ($1::text, $2::bigint, $3::bigint) "
                "ON CONFLICT (name) DO UPDATE SET active = excluded.active, filling = excluded.filling"
            )
            await self.connection.execute(text, name, *new.numbers)
        left = {layout.number for layout in new.all()}
        for layout in old.all():
            if layout.number not in left:
                await self.connection.execute(f"DROP TABLE IF EXISTS {layout.docs}")
                await self.connection.execute(f"DELETE FROM {self.registry.versions} WHERE number = $1::bigint", layout.number)
