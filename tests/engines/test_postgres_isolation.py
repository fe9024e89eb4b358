"""Row-level security from the declaration: what another role sees and writes, whom it is not for, and that it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import asyncpg
import pytest

import palaver
from palaver import Blob, Entity, History, Key, Schema, Search, Searchable, Source, Store, Tenant, Unique, days
from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.errors import Forbidden
from palaver.ops import AlterColumn, Column, CreateTable, RenameColumn, RenameTable, Table
from palaver.ports import SearchDoc, SearchSpec
from palaver.records.postgres import PostgresRecords
from palaver.search.postgres import PostgresSearch
from tests import servers
from tests.engines.postgres_roles import OWNER, SQL, Owned

SERVERS = {"18": servers.postgres18, "15": servers.postgres15}


class Page(Entity, table="pages"):
    team: Annotated[str, Tenant()]
    id: str
    slug: str
    text: Annotated[str, Searchable()] = ""
    file: Annotated[bytes | None, Blob("{id}/file", inline=16)] = None
    key = Key("id")
    by_slug = Unique("slug")
    history = History(days(35))


PAGES = Schema("pages", [Page], searches=[Search("pages", Source(Page))])


@pytest.fixture(params=SERVERS)
def owned(request: pytest.FixtureRequest) -> Iterator[Owned]:
    made = Owned(SERVERS[request.param]())
    yield made
    made.drop()


def opening(owned: Owned, role: str = OWNER, **options: str) -> palaver.config.Opening:
    return palaver.open(owned.url(role, blobs="memory:", pool="4", **options), schema=PAGES, maintain=False, migrate=True)


async def fill(store: Store) -> None:
    for team in "ab":
        own = store.for_tenant(team)
        for n in range(3):
            await own.create(Page(team=team, id=f"{n}", slug=f"s{n}", text=f"words of {team}"), token=f"t{n}")
        await own.bulk([Page(team=team, id=f"{n}", slug=f"s{n}", text=f"words of {team}") for n in range(10, 60)])
    await store.settle()


# --- what another role sees -----------------------------------------------------------------------------------------


async def test_a_role_sees_the_rows_of_the_tenant_it_sets_and_nothing_else_of_ours(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    full = {table for table in owned.tables() if owned.superuser(f'SELECT count(*) FROM "{table}"') != "0"}
    assert {"pages", "pages-history", "palaver_system", "palaver_changes", "palaver_names", "search.indexes"} <= full

    assert {} == await owned.seen()
    assert {} == await owned.seen("")
    assert {} == await owned.seen("c")
    assert {"pages": 53} == await owned.seen("a")
    async with owned.by_sql("b") as connection:
        assert ["b"] == [row[0] for row in await connection.fetch("SELECT DISTINCT team FROM pages")]
        await connection.execute("RESET palaver.tenant")
        assert 0 == await connection.fetchval("SELECT count(*) FROM pages")


async def test_a_setting_of_one_transaction_ends_with_it(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    async with owned.by_sql() as connection:
        async with connection.transaction():
            await connection.execute("SET LOCAL palaver.tenant = 'a'")
            assert 53 == await connection.fetchval("SELECT count(*) FROM pages")
        assert 0 == await connection.fetchval("SELECT count(*) FROM pages")


async def test_what_a_role_sees_is_found_by_the_key(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    async with owned.by_sql("a") as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN SELECT * FROM pages WHERE id = '11'"))
    assert "Index Cond: ((team = current_setting('palaver.tenant'::text, true)) AND (id = '11'::text))" in plan


async def test_a_policy_beside_ours_holds_a_role_to_one_tenant_whatever_it_sets(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    owned.superuser(f"CREATE POLICY only_a ON pages AS RESTRICTIVE TO {SQL} USING (team = 'a')")

    assert {} == await owned.seen("b")
    assert {"pages": 53} == await owned.seen("a")


async def test_a_role_writes_no_row_of_another_tenant(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    before = owned.superuser("SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM pages p WHERE team = 'b'")
    insert = "INSERT INTO pages SELECT (p).* FROM (SELECT jsonb_populate_record(p, $1) AS p FROM pages p LIMIT 1) s"
    async with owned.by_sql("a") as connection:
        refused: list[tuple[str, ...]] = [
            ("UPDATE pages SET team = 'b' WHERE id = '0'",),
            (insert, '{"team": "b", "id": "new", "slug": "new"}'),
            ("INSERT INTO palaver_names (name, kinds) VALUES ('x', 'text')",),
        ]
        for statement in refused:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await connection.execute(*statement)
        assert "UPDATE 0" == await connection.execute("UPDATE pages SET text = 'theirs' WHERE team = 'b'")
        assert "DELETE 0" == await connection.execute("DELETE FROM pages WHERE team = 'b'")
        assert "DELETE 0" == await connection.execute("DELETE FROM palaver_system")
        assert "INSERT 0 1" == await connection.execute(insert, '{"team": "a", "id": "new", "slug": "new"}')
        assert "DELETE 54" == await connection.execute("DELETE FROM pages")

    assert before == owned.superuser("SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM pages p WHERE team = 'b'")


# --- whom it is not for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooler", ["none", "transaction"])
async def test_a_store_is_not_opened_by_a_role_that_would_not_see_every_row(owned: Owned, pooler: str) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()

    with pytest.raises(Forbidden, match="hides records"):
        await opening(owned, SQL, pooler=pooler)


async def test_a_member_of_the_owner_and_a_role_that_bypasses_open_it(owned: Owned) -> None:
    async with opening(owned, rls="on") as store:
        await fill(store)
    owned.grant()
    for give, take in (
        (f"GRANT {OWNER} TO {SQL}", f"REVOKE {OWNER} FROM {SQL}"),
        (f"ALTER ROLE {SQL} BYPASSRLS", f"ALTER ROLE {SQL} NOBYPASSRLS"),
    ):
        owned.superuser(give)
        try:
            async with opening(owned, SQL, rls="on") as store:
                await store.for_tenant("a").get(Page.at("11"))
                await store.for_tenant("b").patch(Page.at("11"), set={"text": "new"})
        finally:
            owned.superuser(take)


async def test_who_does_not_own_the_tables_cannot_close_them(owned: Owned) -> None:
    async with opening(owned) as store:
        await fill(store)
    owned.grant()

    with pytest.raises(Forbidden):
        await opening(owned, SQL, rls="on")

    assert "0" == owned.superuser("SELECT count(*) FROM pg_class WHERE relrowsecurity")
    async with opening(owned, SQL) as store:
        await store.for_tenant("a").get(Page.at("1"))


# --- that it comes, and stays ---------------------------------------------------------------------------------------


async def test_a_database_that_is_there_is_closed_at_opening_and_once_is_enough(owned: Owned) -> None:
    async with opening(owned) as store:
        await fill(store)
    owned.grant()
    assert len(await owned.seen()) > 5

    async with opening(owned, rls="on"):
        pass
    assert {"pages": 53} == await owned.seen("a")
    state = "SELECT string_agg(xmin::text, ',' ORDER BY oid) FROM pg_class WHERE relrowsecurity"
    before = owned.superuser(state)
    async with opening(owned, rls="on"):
        pass
    assert before == owned.superuser(state)


async def test_several_may_open_it_at_the_same_time(owned: Owned) -> None:
    async with opening(owned) as store:
        await fill(store)
    owned.grant()

    async def once() -> None:
        async with opening(owned, rls="on") as store:
            await store.for_tenant("a").get(Page.at("1"))

    await asyncio.gather(*(once() for _ in range(5)))
    assert {"pages": 53} == await owned.seen("a")


async def test_what_is_made_later_is_closed_too_whichever_url_makes_it(owned: Owned) -> None:
    class Page2(Entity, table="more"):
        team: Annotated[str, Tenant()]
        id: str
        text: Annotated[str, Searchable()] = ""
        key = Key("id")

    async with opening(owned, rls="on") as store:
        await fill(store)
    later = Schema("pages", [Page, Page2], searches=[Search("pages", Source(Page)), Search("more", Source(Page2))], version=2)
    async with palaver.open(owned.url(blobs="memory:"), schema=later, maintain=False, migrate=True) as store:
        await store.for_tenant("a").create(Page2(team="a", id="1"))
        await store.for_tenant("b").create(Page2(team="b", id="1"))
        assert isinstance(store.core.search, PostgresSearch)
        await store.core.search.restart("pages")
        await store.settle()
    owned.grant()

    assert "0" != owned.superuser("SELECT count(*) FROM pg_class WHERE relname LIKE 'search.%.more'")
    assert {} == await owned.seen()
    assert {"more": 1, "pages": 53} == await owned.seen("a")


async def test_without_the_option_nothing_is_closed(owned: Owned) -> None:
    async with opening(owned) as store:
        await fill(store)

    assert "0" == owned.superuser("SELECT count(*) FROM pg_class WHERE relrowsecurity")


TABLE = Table(
    "things",
    "Thing",
    (Column("owner", "text", required=True), Column("id", "text", required=True)),
    partition=("owner",),
    sort=("id",),
    tenant="owner",
)


async def test_the_policy_follows_a_table_and_a_column_through_their_changes(owned: Owned) -> None:
    engine = PostgresRecords(await Pool.open(owned.url(), PostgresOptions(rls=True)), ())
    await engine.apply(CreateTable(TABLE))
    named = replace(TABLE, name="other things")
    await engine.apply(RenameTable(named, "things"))
    await engine.apply(AlterColumn(named, Column("owner", "text", required=True, check=(("max_length", 9),))))
    renamed = replace(named, columns=(Column("whose", "text", required=True), TABLE.columns[1]), partition=("whose",), tenant="whose")
    await engine.apply(RenameColumn(renamed, "owner", "whose"))
    await engine.aclose()
    owned.grant()
    owned.superuser("""INSERT INTO "other things" (whose, id, _revision) VALUES ('a', '1', 1), ('b', '1', 1)""")

    assert {} == await owned.seen()
    assert {"other things": 1} == await owned.seen("a")


async def test_a_table_stays_closed_until_it_has_the_column(owned: Owned) -> None:
    engine = PostgresRecords(await Pool.open(owned.url(), PostgresOptions(rls=True)), ())
    await engine.apply(CreateTable(replace(TABLE, tenant="whose")))
    owned.grant()
    owned.superuser("""INSERT INTO things (owner, id, _revision) VALUES ('a', '1', 1)""")
    assert {} == await owned.seen("a")

    await engine.apply(RenameColumn(replace(TABLE, tenant="whose"), "owner", "whose"))
    await engine.aclose()
    assert {"things": 1} == await owned.seen("a")


async def test_search_alone_in_a_database_is_closed(owned: Owned) -> None:
    pool = await Pool.open(owned.url(), PostgresOptions(rls=True))
    search = PostgresSearch(pool)
    await search.apply([SearchSpec("notes", ("text",), {})])
    await search.put("notes", [SearchDoc("1", 1, {"text": "words"}, {})])
    await pool.aclose()
    owned.grant()

    assert {} == await owned.seen()


# --- what palaver doctor says of it -------------------------------------------------------------------------------------


async def told(owned: Owned, role: str = OWNER, **options: str) -> tuple[str, str, str]:
    async with opening(owned, role, **options) as store:
        assert isinstance(store.core.records, PostgresRecords)
        (finding,) = [each for each in await store.core.records.diagnose() if each.check == "row-level security"]
    return finding.level, finding.seen, finding.fix


async def test_the_doctor_tells_who_can_reach_every_tenant_without_it(owned: Owned) -> None:
    assert ("ok", "off; no other role was given a right to the tables with tenants", "") == await told(owned)
    owned.grant()
    assert ("warn", f"off, and {SQL} can reach the rows of every tenant with SQL") == (await told(owned))[:2]
    owned.superuser("GRANT SELECT ON pages TO PUBLIC")
    level, seen, fix = await told(owned)
    assert ("warn", True, True) == (level, "everybody and 1 more" in seen, "?rls=on" in fix)
    assert ("ok", True) == ((found := await told(owned, rls="on"))[0], found[1].startswith("on, for 1 tables with tenants"))
    assert found[1].endswith("as their owner, or a member of it")
    # It is kept, whatever a later URL says.
    assert "ok" == (await told(owned))[0]


@pytest.mark.parametrize(
    ("done", "level", "seen", "fix"),
    [
        ("ALTER TABLE pages DISABLE ROW LEVEL SECURITY", "fail", "on, and not for pages", "?rls=on"),
        ("ALTER TABLE palaver_meta DISABLE ROW LEVEL SECURITY; REVOKE ALL ON palaver_meta FROM {sql}", "warn", "on, and not", "?rls=on"),
        ("DROP POLICY palaver_tenant ON pages", "warn", "its policy is missing", "?rls=on"),
        ("CREATE POLICY theirs ON pages USING (true)", "warn", "more than their tenant's rows: theirs on pages", "RESTRICTIVE"),
        ("CREATE POLICY mine ON pages AS RESTRICTIVE USING (true)", "ok", "on, for 1 tables", ""),
        ("ALTER ROLE {owner} BYPASSRLS", "ok", "as a role with BYPASSRLS", ""),
    ],
)  # fmt: skip
async def test_the_doctor_finds_its_gaps_and_says_how_to_close_them(owned: Owned, done: str, level: str, seen: str, fix: str) -> None:
    async with opening(owned, rls="on"):
        owned.grant()
    owned.superuser(done.format(owner=OWNER, sql=SQL))
    try:
        found = await told(owned)
        assert (level, True, True) == (found[0], seen in found[1], fix in found[2]), found
        if "?rls=on" in fix:
            assert "ok" == (await told(owned, rls="on"))[0]
    finally:
        owned.superuser(f"ALTER ROLE {OWNER} NOBYPASSRLS")


async def test_the_doctor_finds_what_is_forced(owned: Owned) -> None:
    async with opening(owned, rls="on"):
        owned.superuser("ALTER TABLE pages FORCE ROW LEVEL SECURITY")
    with pytest.raises(Forbidden, match="never FORCE"):
        await told(owned)
    owned.superuser(f"ALTER ROLE {OWNER} BYPASSRLS")
    try:
        level, seen, fix = await told(owned)
    finally:
        owned.superuser(f"ALTER ROLE {OWNER} NOBYPASSRLS")
    assert ("fail", "forced on pages" in seen, "NO FORCE" in fix) == (level, True, True)
