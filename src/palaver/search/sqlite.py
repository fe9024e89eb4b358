"""Full text in the SQLite file of the records, on FTS5. The tables and statements are in `sqlite_layout.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import apsw

from palaver.connections.sqlite import Database
from palaver.errors import ConfigError
from palaver.ports import SearchDoc, SearchHit, SearchPage, SearchQuery, SearchSpec
from palaver.search.chunks import chunks, text_length
from palaver.search.rules import Asked, asked, check_spec, dumps, facet, loads, unknown_index
from palaver.search.sqlite_layout import REGISTRY, Layout, Row, Statement

_FILLING, _ACTIVE, _DROPPED = 0, 1, 2

# What holds the writer for 1 to 3 ms: so many documents or characters, so many whose words the index must forget (every word
# of each is removed from its page, which takes twenty times as long as adding it), pages merged, rows dropped.
_DOCS = 64
_CHARACTERS = 32_000
_WORDS_FORGOTTEN = 4
_MERGE_EVERY = 4
_MERGE_PAGES = 64
_MERGE_STEPS = 16
_ROWS_DROPPED = 100

_PREPARED_INLINE = 50_000


class _Version(NamedTuple):
    layout: Layout
    state: int


_Prepared: TypeAlias = "list[tuple[Layout, list[Row]]]"


class SqliteSearch:
    """`ports.SearchIndex` on one `Database`, which stays the caller's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = False
        self._unmerged: dict[str, int] = {}

    async def put(self, index: str, docs: Sequence[SearchDoc]) -> None:
        """Store documents, a chunk a commit: what came before an error stays, and putting again is harmless."""
        versions = await self._versions(index)
        for some in chunks(docs, _DOCS, _CHARACTERS):
            prepared = await self._prepared(versions, some)
            while prepared[0][1]:
                done = await self._database.write(_putting(index, prepared), cost=sum(row.size for _, rows in prepared for row in rows))
                if done is None:  # another version was made or activated meanwhile
                    versions = await self._versions(index)
                    prepared = await self._prepared(versions, some)
                    continue
                prepared = [(layout, rows[done:]) for layout, rows in prepared]
            for layout, _ in prepared:
                await self._merge_now_and_then(index, layout)

    async def _prepared(self, versions: Sequence[_Version], docs: Sequence[SearchDoc]) -> _Prepared:
        if text_length(docs) < _PREPARED_INLINE:
            return _prepare(versions, docs)
        return await asyncio.to_thread(_prepare, versions, docs)

    async def delete(self, index: str, ids: Sequence[str]) -> None:
        await self._versions(index)
        for start in range(0, len(ids), _WORDS_FORGOTTEN):
            await self._database.write(_deleting(index, ids[start : start + _WORDS_FORGOTTEN]))

    async def search(self, index: str, query: SearchQuery) -> SearchPage:
        self._check()
        return await self._database.read_pooled(lambda connection: _search(connection, index, query))

    async def ids(self, index: str, after: str, limit: int) -> list[tuple[str, int]]:
        self._check()

        def page(connection: apsw.Connection) -> list[tuple[str, int]]:
            layout = min(_versions_of(connection, index), key=lambda one: one.state).layout
            return _all(connection, (f"SELECT id, revision FROM {layout.docs} WHERE id > ? ORDER BY id LIMIT ?", (after, limit)))

        return await self._database.read(page)

    async def visible(self, index: str) -> None:
        """Return at once: a put is found as soon as it is acknowledged."""
        await self._versions(index)

    async def apply(self, specs: Sequence[SearchSpec]) -> list[str]:
        self._check()
        for spec in specs:
            check_spec(spec)
        if self._database.options.read_only:
            return []  # nothing can be made here; a search of what is not there says so
        filling = await self._database.write(lambda connection: _apply(connection, [Layout(spec) for spec in specs]))
        await self._drop()
        return filling

    async def activate(self, index: str) -> None:
        self._check()
        await self._database.write(lambda connection: _activate(connection, index))
        await self._drop()

    async def restart(self, index: str) -> None:
        self._check()
        await self._database.write(lambda connection: _restart(connection, index))
        await self._drop()

    async def scrub(self) -> None:
        """Empty the log: forgotten words are overwritten in the file, and its former pages are nowhere else."""
        self._check()
        await self._database.checkpoint()

    async def aclose(self) -> None:
        self._closed = True

    async def _versions(self, index: str) -> list[_Version]:
        self._check()
        return await self._database.read(lambda connection: _versions_of(connection, index))

    async def _merge_now_and_then(self, index: str, layout: Layout) -> None:
        """Merge what the last writes left, in steps of their own, so that other writes come in between."""
        self._unmerged[layout.docs] = self._unmerged.get(layout.docs, 0) + 1
        if self._unmerged[layout.docs] < _MERGE_EVERY:
            return
        self._unmerged[layout.docs] = 0
        for _ in range(_MERGE_STEPS):
            if not await self._database.write(partial(_merge_if_there, index=index, layout=layout)):
                return

    async def _drop(self) -> None:
        """Drop what nobody searches any more; also what an earlier process did not come to."""
        for layout in await self._database.read(_dropped):
            while await self._database.write(partial(_forget_some, layout=layout)):
                pass
            await self._database.write(partial(_forget_all, layout=layout))

    def _check(self) -> None:
        if self._closed:
            raise ConfigError("The search index is closed.")


# --- preparing ------------------------------------------------------------------------------------------------------


def _prepare(versions: Sequence[_Version], docs: Sequence[SearchDoc]) -> _Prepared:
    return [(one.layout, _newest([one.layout.row(doc) for doc in docs])) for one in versions]


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Return one row an id: the first of those with the greatest revision."""
    newest: dict[str, Row] = {}
    for row in rows:
        if row.id not in newest or newest[row.id].revision < row.revision:
            newest[row.id] = row
    return list(newest.values())


# --- jobs -----------------------------------------------------------------------------------------------------------


def _all(connection: apsw.Connection, statement: Statement) -> list[Any]:
    return connection.execute(*statement).fetchall()


@lru_cache(maxsize=256)
def _layout(stored: str) -> Layout:
    return Layout(loads(stored))


def _versions_of(connection: apsw.Connection, index: str) -> list[_Version]:
    """Return the versions of an index that are in use; raises NotProvisioned when there is none."""
    try:
        rows = _all(connection, (f"SELECT spec, state FROM {REGISTRY} WHERE name = ? AND state < {_DROPPED}", (index,)))
    except apsw.SQLError as error:
        if "no such table" in str(error):
            raise unknown_index() from None
        raise
    if not rows:
        raise unknown_index()
    return [_Version(_layout(spec), state) for spec, state in rows]


def _merge_if_there(connection: apsw.Connection, index: str, layout: Layout) -> bool:
    """Merge a version that another process may have dropped meanwhile; say whether there may be more to do."""
    versions = _all(connection, (f"SELECT spec FROM {REGISTRY} WHERE name = ? AND state < {_DROPPED}", (index,)))
    return layout.docs in {_layout(spec).docs for (spec,) in versions} and bool(_merge(connection, layout))


def _putting(index: str, prepared: _Prepared) -> Callable[[apsw.Connection], int | None]:
    """Return the job that stores rows and says how many of them, or None when they were made for other versions than there are."""

    def put(connection: apsw.Connection) -> int | None:
        if {one.layout.docs for one in _versions_of(connection, index)} != {layout.docs for layout, _ in prepared}:
            return None
        # Putting a row again that one version took already changes nothing.
        return min(_put(connection, layout, rows) for layout, rows in prepared)

    return put


def _put(connection: apsw.Connection, layout: Layout, rows: Sequence[Row]) -> int:
    """Store the first rows, as many as one write may take; return how many."""
    stored = _stored(connection, layout, [row.id for row in rows])
    numbers = count(_all(connection, (f"SELECT coalesce(max(n), 0) + 1 FROM {layout.docs}", ()))[0][0])
    new, kept, changed = list[tuple[int, Row]](), list[tuple[int, Row]](), list[tuple[int, Row]]()
    done = 0
    for row in rows:
        done += 1
        old = stored.get(row.id)
        if old is None:
            new.append((next(numbers), row))
        elif old.revision < row.revision:
            kept.append((old.n, row))
            if old.words != row.words:
                changed.append((old.n, row))
                if len(changed) == _WORDS_FORGOTTEN:
                    break
    _forget_words(connection, layout, [n for n, _ in changed])
    connection.executemany(layout.update_doc, [(row.revision, *row.values, *row.words, n) for n, row in kept])
    connection.executemany(f"DELETE FROM {layout.many} WHERE n = ?", [(n,) for n, _ in kept])
    connection.executemany(layout.insert_doc, [(row.revision, *row.values, *row.words, n, row.id) for n, row in new])
    connection.executemany(layout.insert_text, [(n, *row.words) for n, row in sorted([*changed, *new])])
    several = [(field, value, n) for n, row in (*kept, *new) for field, value in row.many]
    connection.executemany(f"INSERT INTO {layout.many} VALUES (?, ?, ?)", several)
    return done


class _Old(NamedTuple):
    n: int
    revision: int
    words: tuple[str, ...]


def _stored(connection: apsw.Connection, layout: Layout, ids: Sequence[str]) -> dict[str, _Old]:
    rows = _all(connection, (layout.select_docs, (json.dumps(list(ids)),)))
    return {id: _Old(n, revision, tuple(words)) for id, n, revision, *words in rows}


def _forget_words(connection: apsw.Connection, layout: Layout, numbers: Sequence[int]) -> None:
    """Take documents out of the index, which reads from their rows what to forget: before those change.

    In order, since FTS5 writes out what it holds in memory whenever a number is below the last.
    """
    connection.executemany(f"DELETE FROM {layout.text} WHERE rowid = ?", [(n,) for n in sorted(numbers)])


def _deleting(index: str, ids: Sequence[str]) -> Callable[[apsw.Connection], None]:
    def delete(connection: apsw.Connection) -> None:
        for one in _versions_of(connection, index):
            numbers = [old.n for old in _stored(connection, one.layout, ids).values()]
            _forget_words(connection, one.layout, numbers)
            for table in (one.layout.many, one.layout.docs):
                connection.executemany(f"DELETE FROM {table} WHERE n = ?", [(n,) for n in numbers])

    return delete


def _merge(connection: apsw.Connection, layout: Layout) -> bool:
    before = connection.total_changes()
    connection.execute(f"INSERT INTO {layout.text} ({layout.text}, rank) VALUES ('merge', {_MERGE_PAGES})")
    # FTS5 documents it so: fewer than two changes mean that there was nothing to merge.
    return connection.total_changes() - before >= 2


# --- searching ------------------------------------------------------------------------------------------------------


def _search(connection: apsw.Connection, index: str, query: SearchQuery) -> SearchPage:
    connection.execute("BEGIN")  # hits, total and facets are of one instant
    try:
        layout = max(_versions_of(connection, index), key=lambda one: one.state).layout
        return _page(connection, layout, query, asked(layout.spec, query))
    finally:
        connection.execute("COMMIT")


def _page(connection: apsw.Connection, layout: Layout, query: SearchQuery, question: Asked) -> SearchPage:
    fields = {one.field for one in question.filters}.union(query.facets)
    many = {field for field in fields if _has_several(connection, layout, field)}
    # Asking for the tenant among the words saves looking at the others' rows, and costs time by the tenant's own.
    by_key = bool(question.terms and layout.spec.required and _all(connection, layout.few(question))[0][0])
    hits = [SearchHit(id, score) for id, score in _all(connection, layout.hits(question, query, many, by_key=by_key))]
    if query.offset == 0 and len(hits) < query.limit:
        total = len(hits)
    else:
        total = _all(connection, layout.total(question, many, by_key=by_key))[0][0]
    facets = {}
    for field in query.facets:
        counts = [row for statement in layout.facets(field, question, many, by_key=by_key) for row in _all(connection, statement)]
        facets[field] = facet(layout.spec.filters[field], counts)
    return SearchPage(hits, total, facets)


def _has_several(connection: apsw.Connection, layout: Layout, field: str) -> bool:
    found = _all(connection, (f"SELECT EXISTS (SELECT 1 FROM {layout.many} WHERE field = ?)", (layout.numbers[field],)))
    return bool(found[0][0])


# --- versions -------------------------------------------------------------------------------------------------------


def _apply(connection: apsw.Connection, layouts: Sequence[Layout]) -> list[str]:
    """Make what is missing, mark what nobody declares any more, and return the names that are not filled."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {REGISTRY} (name TEXT, version TEXT, state INTEGER NOT NULL, spec TEXT NOT NULL, "
        "PRIMARY KEY (name, version)) WITHOUT ROWID"
    )
    declared = {layout.spec.name: layout for layout in layouts}
    states: dict[tuple[str, str], int] = {}
    for name, version, state in _all(connection, (f"SELECT name, version, state FROM {REGISTRY} WHERE state < {_DROPPED}", ())):
        wanted = declared.get(name)
        if wanted and (state == _ACTIVE or wanted.version == version):
            states[name, version] = state
        else:
            _mark(connection, name, version, _DROPPED)
    for name, layout in declared.items():
        if (name, layout.version) not in states:
            _make(connection, layout)
    return [name for name, layout in declared.items() if states.get((name, layout.version)) != _ACTIVE]


def _make(connection: apsw.Connection, layout: Layout) -> None:
    # A declaration may come back before the tables of its last time are gone.
    _drop_tables(connection, layout)
    for statement in layout.ddl:
        connection.execute(statement)
    binds = (layout.spec.name, layout.version, _FILLING, dumps(layout.spec))
    connection.execute(f"INSERT INTO {REGISTRY} VALUES (?, ?, ?, ?)", binds)


def _mark(connection: apsw.Connection, name: str, version: str, state: int) -> None:
    connection.execute(f"UPDATE {REGISTRY} SET state = ? WHERE name = ? AND version = ?", (state, name, version))


def _activate(connection: apsw.Connection, index: str) -> None:
    versions = _versions_of(connection, index)
    if any(one.state == _FILLING for one in versions):
        for one in versions:
            _mark(connection, index, one.layout.version, _ACTIVE if one.state == _FILLING else _DROPPED)


def _restart(connection: apsw.Connection, index: str) -> None:
    newest, *others = sorted(_versions_of(connection, index), key=lambda one: one.state)
    for one in others:
        _mark(connection, index, one.layout.version, _DROPPED)
    _make(connection, newest.layout)


def _dropped(connection: apsw.Connection) -> list[Layout]:
    return [_layout(spec) for (spec,) in _all(connection, (f"SELECT spec FROM {REGISTRY} WHERE state = {_DROPPED}", ()))]


def _is_dropped(connection: apsw.Connection, layout: Layout) -> bool:
    """Say whether it still is to go: another process may have finished, or a declaration come back."""
    return layout.version in [one.version for one in _dropped(connection) if one.spec.name == layout.spec.name]


def _forget_some(connection: apsw.Connection, layout: Layout) -> bool:
    """Empty a part of the tables: dropping them whole would hold up the writer for as long as they are large."""
    if not _is_dropped(connection, layout):
        return False
    before = connection.total_changes()
    some = f"(SELECT n FROM {layout.docs} LIMIT {_ROWS_DROPPED})"
    connection.execute(f"DELETE FROM {layout.many} WHERE n IN {some}")
    connection.execute(f"DELETE FROM {layout.docs} WHERE n IN {some}")
    connection.execute(f"DELETE FROM {layout.blocks} WHERE id IN (SELECT id FROM {layout.blocks} LIMIT {_ROWS_DROPPED})")
    return connection.total_changes() > before


def _forget_all(connection: apsw.Connection, layout: Layout) -> None:
    if _is_dropped(connection, layout):
        _drop_tables(connection, layout)


def _drop_tables(connection: apsw.Connection, layout: Layout) -> None:
    for table in (layout.text, layout.many, layout.docs):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(f"DELETE FROM {REGISTRY} WHERE name = ? AND version = ?", (layout.spec.name, layout.version))
