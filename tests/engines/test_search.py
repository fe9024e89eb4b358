"""Search in memory and in SQLite; for SQLite also what is left of deleted text, and that both agree on anything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from palaver.connections.sqlite import Database
from palaver.errors import ConfigError
from palaver.ports import SearchDoc, SearchFilter, SearchIndex, SearchPage, SearchQuery, SearchSpec
from palaver.search import sqlite as module
from palaver.search.memory import MemorySearch
from palaver.search.sqlite import SqliteSearch
from palaver.testing.search import NOTES, OWNED, SearchIndexTests, doc


class TestMemory(SearchIndexTests):
    @pytest.fixture
    async def search(self) -> AsyncIterator[SearchIndex]:
        search = MemorySearch()
        yield search
        await search.aclose()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "search.db")
    yield database
    await database.aclose()


class TestSqlite(SearchIndexTests):
    @pytest.fixture
    async def search(self, database: Database) -> AsyncIterator[SearchIndex]:
        search = SqliteSearch(database)
        yield search
        await search.aclose()

    @pytest.fixture(autouse=True)
    async def _sound(self, database: Database) -> AsyncIterator[None]:
        """After each test the index says of exactly the words of its documents that they are there."""
        yield

        def check(connection: apsw.Connection) -> None:
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%:text'").fetchall():
                connection.execute(f"""INSERT INTO "{name}" ("{name}", rank) VALUES ('integrity-check', 1)""")

        await database.write(check)


@pytest.mark.parametrize("make", [lambda database: MemorySearch(), SqliteSearch], ids=["memory", "sqlite"])
async def test_vectors_are_refused_in_declarations_and_queries(database: Database, make: Callable[[Database], SearchIndex]) -> None:
    search = make(database)
    with pytest.raises(ConfigError, match="vectors are not available on this engine"):
        await search.apply([SearchSpec("x", ("a",), {}, vectors={"embedding": 3})])
    await search.apply([NOTES])
    with pytest.raises(ConfigError, match="vectors are not available on this engine"):
        await search.search("notes", SearchQuery(vector=("embedding", [0.0])))


# --- both engines, side by side -------------------------------------------------------------------------------------------

WORDS = ["cat", "cats", "dog", "東京", "京都", "né", "ne", "a.b", "x", "the"]


def random_query(chance: random.Random, spec: SearchSpec) -> SearchQuery:
    terms = []
    for _ in range(chance.randrange(4)):
        words = " ".join(chance.choices(WORDS, k=chance.choice([1, 1, 2])))
        term = f'"{words}"' if " " in words or chance.random() < 0.2 else words + chance.choice(["", "", "*"])
        terms.append(chance.choice(["", "", "-"]) + term)
    filters = [SearchFilter(name, "in", chance.sample("uvw", k=2)) for name in spec.required]
    if chance.random() < 0.4:
        filters.append(SearchFilter("stamp", chance.choice([">=", ">", "<=", "<", "=="]), chance.randrange(5)))
    if "people" in spec.filters and chance.random() < 0.4:
        filters.append(SearchFilter("people", "in", chance.sample("pqrs", k=chance.randrange(3))))
    newest = chance.choice([None, "stamp"])
    return SearchQuery(" ".join(terms), tuple(filters), tuple(spec.filters), chance.choice([0, 3, 100]), chance.choice([0, 0, 2]), newest)


def random_doc(chance: random.Random, spec: SearchSpec) -> SearchDoc:
    texts = {name: " ".join(chance.choices(WORDS, k=chance.randrange(6))) for name in spec.text}
    filters: dict[str, Any] = {"stamp": chance.randrange(5)} | {name: chance.choice("uvw") for name in spec.required}
    if "people" in spec.filters and chance.random() < 0.7:
        filters["people"] = chance.choice("pq") if chance.random() < 0.5 else chance.choices("pqrs", k=chance.randrange(4))
    return SearchDoc(f"{chance.randrange(40)}", chance.randrange(100), texts, filters)


def comparable(page: SearchPage) -> tuple[list[tuple[str, float]], int, Any]:
    return [(hit.id, round(hit.score, 4)) for hit in page.hits], page.total, page.facets


@pytest.mark.parametrize("spec", [NOTES, OWNED], ids=["notes", "owned"])
async def test_both_give_the_same_pages_for_anything(database: Database, spec: SearchSpec) -> None:
    """Order and scores too: memory computes BM25 as FTS5 does, over documents whose keys do not count."""
    chance = random.Random(11)
    memory, sqlite = MemorySearch(), SqliteSearch(database)
    for search in (memory, sqlite):
        await search.apply([spec])
    for _ in range(30):
        docs = [random_doc(chance, spec) for _ in range(chance.randrange(12))]
        gone = [f"{chance.randrange(40)}" for _ in range(chance.randrange(4))]
        for search in (memory, sqlite):
            await search.put(spec.name, docs)
            await search.delete(spec.name, gone)
        for _ in range(12):
            query = random_query(chance, spec)
            expected, got = await memory.search(spec.name, query), await sqlite.search(spec.name, query)
            if spec.required:  # the keys make documents longer, so that scores differ in the last digits
                assert (expected.total, expected.facets) == (got.total, got.facets), query
            else:
                assert comparable(expected) == comparable(got), query
        assert await memory.ids(spec.name, "", 100) == await sqlite.ids(spec.name, "", 100)


# --- the file -----------------------------------------------------------------------------------------------------------


async def test_nothing_of_deleted_or_replaced_text_is_left_in_the_file(database: Database, tmp_path: Path) -> None:
    search = SqliteSearch(database)
    await search.apply([NOTES])
    canaries = [f"zq{number}canary{number * 7919}" for number in range(60)]
    filler = [doc(f"f{number}", f"filler zebra zq{number % 100} zulu{number}") for number in range(600)]
    await search.put("notes", filler[:300])
    for start in range(0, 60, 5):
        await search.put("notes", [doc(f"c{word}", f"secret {word}", people=[f"p{word}", "all"]) for word in canaries[start : start + 5]])
        await search.put("notes", filler[300 + start * 5 : 325 + start * 5])
    await database.checkpoint()
    found = (tmp_path / "search.db").read_bytes()
    assert [] == [word for word in canaries if word.encode() not in found]
    await search.delete("notes", [f"c{word}" for word in canaries[:40]])
    await search.put("notes", [doc(f"c{word}", "replaced", 2) for word in canaries[40:]])
    await search.delete("notes", [f"c{word}" for word in canaries[40:]])
    await database.checkpoint()
    # Terms share their beginnings on a page, so that the tail of a word counts as the word.
    left = bytes_in(tmp_path)
    assert [] == [word for word in canaries if word[-10:].encode() in left]
    assert [] == await words_like(database, "canary")
    assert b"zulu" in left


def bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def words_like(database: Database, part: str) -> list[str]:
    def read(connection: apsw.Connection) -> list[str]:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%:text'").fetchall()]
        words: list[str] = []
        for name in names:
            connection.execute(f"""CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, "{name}", row)""")
            words += [str(term) for (term,) in connection.execute("SELECT term FROM temp.words WHERE instr(term, ?)", (part,)).fetchall()]
            connection.execute("DROP TABLE temp.words")
        return words

    return await database.write(read)


async def test_nothing_of_a_dropped_index_is_left_in_the_file(database: Database, tmp_path: Path) -> None:
    search = SqliteSearch(database)
    await search.apply([NOTES, OWNED])
    await search.put("notes", [doc(f"{number}", f"canary{number}", people=["canary", "x"]) for number in range(500)])
    await search.apply([OWNED])
    await database.checkpoint()
    assert b"canary" not in (tmp_path / "search.db").read_bytes()
    names = await database.read(lambda connection: connection.execute("SELECT name FROM sqlite_schema").fetchall())
    assert not [name for (name,) in names if "notes" in str(name)]


async def test_a_drop_that_was_interrupted_is_finished_by_the_next_apply(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    search = SqliteSearch(database)
    await search.apply([NOTES, OWNED])
    await search.put("notes", [doc(f"{number}", f"word{number}") for number in range(300)])

    async def interrupted(self: SqliteSearch) -> None:
        for layout in await database.read(module._dropped):
            await database.write(partial(module._forget_some, layout=layout))

    with monkeypatch.context() as patched:
        patched.setattr(SqliteSearch, "_drop", interrupted)
        await search.apply([OWNED])
    await search.apply([NOTES, OWNED])
    assert 0 == (await search.search("notes", SearchQuery())).total
    await search.put("notes", [doc("a", "word1")])
    assert 1 == (await search.search("notes", SearchQuery("word1"))).total
    await search.apply([])
    names = await database.read(
        lambda connection: connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'search.%@%'").fetchall()
    )
    assert [] == names


async def test_an_index_outlives_the_process(tmp_path: Path) -> None:
    for visit in range(3):
        database = await Database.open(tmp_path / "again.db")
        search = SqliteSearch(database)
        assert (["notes"] if visit == 0 else []) == await search.apply([NOTES])
        await search.activate("notes")
        await search.put("notes", [doc(f"{visit}", "word")])
        assert visit + 1 == (await search.search("notes", SearchQuery("word"))).total
        await database.aclose()


async def test_two_processes_may_change_versions_under_each_other(tmp_path: Path) -> None:
    one, other = await Database.open(tmp_path / "shared.db"), await Database.open(tmp_path / "shared.db")
    here, there = SqliteSearch(one), SqliteSearch(other)
    await here.apply([NOTES])
    changed = SearchSpec("notes", ("title", "body"), {"kind": "text"})

    async def write() -> None:
        for number in range(40):
            await here.put("notes", [SearchDoc(f"{number}", 1, {"body": "word"}, {"kind": "x"})])

    async def swap() -> None:
        for spec in (changed, NOTES) * 4:
            await there.apply([spec])
            await there.activate("notes")

    await asyncio.gather(write(), swap())
    await there.put("notes", [SearchDoc(f"{number}", 1, {"body": "word"}, {"kind": "x"}) for number in range(40)])
    assert 40 == (await here.search("notes", SearchQuery("word"))).total
    for database in (one, other):
        await database.aclose()


async def test_the_writer_is_not_held_by_large_puts(database: Database) -> None:
    """Another write gets its turn between the chunks of a put, a delete and a drop."""
    search = SqliteSearch(database)
    await search.apply([NOTES])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await database.write(lambda connection: None)
            turns += 1

    other = asyncio.create_task(others())
    await search.put("notes", [doc(f"{number}", f"some words w{number} and others") for number in range(1_000)])
    after_put = turns
    await search.delete("notes", [f"{number}" for number in range(100)])
    after_delete = turns
    await search.apply([])
    other.cancel()
    assert min(after_put, after_delete - after_put, turns - after_delete) > 8
