"""Search in PostgreSQL, the newest and the oldest served, behind a pooler too; beside memory; and processes beside each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unicodedata import category

import pytest

from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import ConfigError, Forbidden
from palaver.ports import SearchDoc, SearchFilter, SearchIndex, SearchQuery, SearchSpec
from palaver.search.memory import MemorySearch
from palaver.search.postgres import PostgresSearch
from palaver.search.text import parse, tokens
from palaver.testing.search import NOTES, OWNED, SearchIndexTests, doc
from tests import servers
from tests.engines.test_search import comparable, random_doc, random_query

SCHEMA = 'said "here"'


@pytest.fixture(scope="module")
def database18(postgres18: servers.Database) -> Iterator[str]:
    yield from made(postgres18)


@pytest.fixture(scope="module")
def database15(postgres15: servers.Database) -> Iterator[str]:
    yield from made(postgres15)


def made(server: servers.Database) -> Iterator[str]:
    name = server.create_database()
    server.sql('CREATE SCHEMA "said ""here"""', database=name)
    yield server.url(name)
    server.drop_database(name)


@asynccontextmanager
async def searching(url: str, **options: Any) -> AsyncIterator[PostgresSearch]:
    pool = await Pool.open(url, PostgresOptions(**{"schema": SCHEMA, **options}))
    try:
        yield PostgresSearch(pool)
    finally:
        await pool.aclose()


class Served(SearchIndexTests):
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    async def search(self, url: str) -> AsyncIterator[SearchIndex]:
        async with searching(url) as search:
            await search.apply([])
            yield search

    @pytest.fixture(autouse=True)
    async def _counted(self, search: PostgresSearch) -> AsyncIterator[None]:
        """After each test the numbers kept of each version are those of its documents."""
        yield
        pool, registry = search._pool, search._registry
        versions = f"{registry.versions} JOIN {registry.indexes} ON number IN (active, filling)"
        for number, name, docs, words in await pool.read(f"SELECT number, name, docs, tokens FROM {versions}"):
            table = f'{registry.schema}."search.{number}.{name}"'
            assert [(docs, words)] == [tuple(row) for row in await pool.read(f"SELECT count(*), coalesce(sum(size), 0) FROM {table}")]


class TestPostgres18(Served):
    @pytest.fixture
    def url(self, database18: str) -> str:
        return database18


class TestPostgres15(Served):
    @pytest.fixture
    def url(self, database15: str) -> str:
        return database15


@pytest.fixture
async def search(database18: str) -> AsyncIterator[PostgresSearch]:
    async with searching(database18) as search:
        await search.apply([])
        yield search


async def test_vectors_are_refused_in_declarations_and_queries(search: PostgresSearch) -> None:
    with pytest.raises(ConfigError, match="vectors are not available on this engine"):
        await search.apply([SearchSpec("x", ("a",), {}, vectors={"embedding": 3})])
    await search.apply([NOTES])
    with pytest.raises(ConfigError, match="vectors are not available on this engine"):
        await search.search("notes", SearchQuery(vector=("embedding", [0.0])))


@pytest.mark.parametrize("spec", [NOTES, OWNED], ids=["notes", "owned"])
async def test_memory_and_postgres_give_the_same_pages_for_anything(search: PostgresSearch, spec: SearchSpec) -> None:
    """Order and scores too, but for words that repeat in a phrase, and among the documents of a tenant."""
    chance = random.Random(12)
    memory = MemorySearch()
    for one in (memory, search):
        await one.apply([spec])
    for _ in range(30):
        docs = [random_doc(chance, spec) for _ in range(chance.randrange(12))]
        gone = [f"{chance.randrange(40)}" for _ in range(chance.randrange(4))]
        for one in (memory, search):
            await one.put(spec.name, docs)
            await one.delete(spec.name, gone)
        for _ in range(12):
            query = random_query(chance, spec)
            expected, got = await memory.search(spec.name, query), await search.search(spec.name, query)
            if spec.required or any(len(set(term.tokens)) < len(term.tokens) for term in parse(query.text)):
                assert (expected.total, expected.facets) == (got.total, got.facets), query
            else:
                assert comparable(expected) == comparable(got), query
        assert await memory.ids(spec.name, "", 100) == await search.ids(spec.name, "", 100)


def test_a_token_needs_no_quoting() -> None:
    """Lexemes stand between quotes and phrases between spaces; a token holds neither, nor what means something between quotes."""
    every = [character for code in range(0x20000) if category(character := chr(code)) != "Cs"]
    found = set[str]().union(*(token for start in range(0, len(every), 900) for token in tokens(" ".join(every[start : start + 900]))))
    assert len(found) > 60_000
    assert not [one for one in found if one.isspace() or one in "'\\\0\n" or (one < "\x80" and not one.isalnum())]


async def test_a_pooler_may_stand_between(pgbouncer: servers.PgBouncer, postgres18: servers.Database) -> None:
    name = postgres18.create_database()
    async with searching(pgbouncer.url(name), schema="public") as search:
        await search.apply([NOTES])
        for number in range(20):
            await search.put("notes", [doc(f"{number}", "word", stamp=number)])
        pages = await asyncio.gather(*(search.search("notes", SearchQuery("word", facets=("stamp",))) for _ in range(20)))
        assert {20} == {page.total for page in pages}
    postgres18.drop_database(name)


async def test_processes_may_change_versions_under_each_other(database18: str) -> None:
    changed = SearchSpec("notes", ("title", "body"), {"kind": "text"})
    async with searching(database18) as here, searching(database18) as there:
        await here.apply([NOTES])

        async def write() -> None:
            for number in range(40):
                await here.put("notes", [SearchDoc(f"{number}", 1, {"body": "word"}, {"kind": "x"})])

        async def look() -> None:
            for _ in range(40):
                await here.search("notes", SearchQuery("word", (SearchFilter("kind", "==", "x"),)))

        async def swap() -> None:
            for spec in (changed, NOTES) * 4:
                await there.apply([spec])
                await there.activate("notes")

        await asyncio.gather(write(), swap(), look())
        await there.put("notes", [SearchDoc(f"{number}", 1, {"body": "word"}, {"kind": "x"}) for number in range(40)])
        assert 40 == (await here.search("notes", SearchQuery("word"))).total


async def test_processes_may_put_the_same_documents_and_make_the_same_indexes(database18: str) -> None:
    async with searching(database18) as here, searching(database18) as there:
        await here.apply([])
        made = await asyncio.gather(*(search.apply([NOTES, OWNED]) for search in (here, there)))
        assert [["notes", "owned"]] * 2 == made
        docs = [[doc(f"{(number * step) % 97}", f"word w{round}", round) for number in range(97)] for round in range(8) for step in (1, 5)]
        await asyncio.gather(*(search.put("notes", some) for search, some in zip([here, there] * 8, docs, strict=True)))
        assert 97 == (await there.search("notes", SearchQuery("w7"))).total == (await here.search("notes", SearchQuery())).total


async def test_what_is_there_is_opened_without_the_right_to_make_it(postgres18: servers.Database, database18: str) -> None:
    name = database18.rsplit("/", 1)[1]
    async with searching(database18) as search:
        await search.apply([])
        await search.apply([NOTES])
        await search.activate("notes")
        await search.put("notes", [doc("a", "word")])
    grants = ['USAGE ON SCHEMA "said ""here"""', 'SELECT ON ALL TABLES IN SCHEMA "said ""here"""']
    postgres18.sql(
        "CREATE ROLE looking LOGIN PASSWORD 'looks'; " + "".join(f"GRANT {grant} TO looking; " for grant in grants), database=name
    )
    async with searching(postgres18.url(name, user="looking", password="looks")) as search:
        assert [] == await search.apply([NOTES])
        assert 1 == (await search.search("notes", SearchQuery("word"))).total
        with pytest.raises(Forbidden):
            await search.apply([OWNED])
    postgres18.sql("DROP OWNED BY looking; DROP ROLE looking", database=name)


async def test_nothing_is_left_of_versions_that_were_replaced(search: PostgresSearch) -> None:
    for fields in (("body",), ("title", "body"), ("body",)):
        await search.apply([SearchSpec("notes", fields, {})])
        await search.activate("notes")
        await search.restart("notes")
    await search.apply([])
    left = await search._pool.read("SELECT count(*) FROM pg_class WHERE relname LIKE 'search.%.notes%'")
    assert [(0,)] == [tuple(row) for row in left]
    assert [] == await search._pool.read(f"SELECT FROM {search._registry.versions}")
