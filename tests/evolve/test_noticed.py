"""Processes that have a database open while somebody migrates it: none of them writes what the new program would not find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Index, RenamedFrom, Schema, Store, config
from palaver.clock import SystemClock
from palaver.errors import NotProvisioned
from palaver.evolve import Migration
from palaver.loading import CHUNK
from palaver.migrating import Migrator
from palaver.migrating.noticing import NOTICE_S
from palaver.migrating.run import CURRENT, SCHEMA
from palaver.ops import Delete, Put, WriteSet
from palaver.plan import Planner
from palaver.url import parse_url
from tests.evolve.cases import entity
from tests.stacks import fresh

OLD = Schema("s", [entity("Thing", {"name": str})], version=1)
ADDED = Schema("s", [entity("Thing", {"name": str, "mood": (str, "?")}, by_mood=Index("mood"))], version=2)
RENAMED = Schema("s", [entity("Thing", {"title": Annotated[str, RenamedFrom("name")]})], version=2)
DROPPED = Schema("s", [entity("Thing", {"n": (int, 0)})], version=2)
ENGINES = ("sqlite", "postgresql", "dynamodb")


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    environ: dict[str, str] = {}
    made = fresh(request.param, tmp_path, environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return made


@asynccontextmanager
async def old_store(url: str) -> AsyncIterator[tuple[Store, Any]]:
    """A store of the old version, opened long ago."""
    async with palaver.open(url, schema=OLD, migrate=True, maintain=True) as store:
        yield store, OLD.entities["Thing"].entity


async def migrate(url: str, schema: Schema, *, notice_s: float = NOTICE_S, allow: tuple[str, ...] = ()) -> Migration:
    planner, clock = Planner(schema), SystemClock()
    stack = await config.open_stack(parse_url(url), tuple(planner.tables.values()), clock)
    try:
        migrator = Migrator(planner, stack.records, clock, notice_s=notice_s)
        plan = await migrator.pending(allow)
        await migrator.apply(plan)
    finally:
        await stack.aclose()
    return plan


async def writes(store: Store, thing: Any) -> tuple[list[str], NotProvisioned]:
    """Write until it is refused; return what was accepted."""
    accepted: list[str] = []
    while True:
        name = f"w{len(accepted)}"
        try:
            await store.create(thing(id=name, name=name))
        except NotProvisioned as refusal:
            return accepted, refusal
        accepted.append(name)
        await asyncio.sleep(0.01)


async def test_nothing_an_old_process_was_thanked_for_is_lost_to_a_rename(url: str) -> None:
    async with old_store(url) as (store, thing):
        writing = asyncio.create_task(writes(store, thing))
        await asyncio.sleep(0.1)
        await migrate(url, RENAMED)
        accepted, refusal = await asyncio.wait_for(writing, 20)
        assert "is being migrated" in refusal.message or "version 2" in refusal.message
        for attempt in (
            store.create(thing(id="x", name="x")),
            store.patch(thing.at("w0"), set={"name": "y"}),
            store.bulk([thing(id="x", name="x")]),
        ):
            with pytest.raises(NotProvisioned):
                await attempt
        with pytest.raises(NotProvisioned):
            await store.sweep()
        assert not store.runner().running
    async with palaver.open(url, schema=RENAMED) as store:
        new: Any = RENAMED.entities["Thing"].entity
        assert accepted
        assert accepted == [(await store.get(new.at(name))).title for name in accepted]


@pytest.mark.parametrize("how", ["create", "patch", "bulk"])
async def test_a_process_that_stood_still_all_the_while_looks_before_it_writes(url: str, how: str) -> None:
    async with old_store(url) as (store, thing):
        await store.create(thing(id="1", name="first"))
        watch = store.core.watch
        assert watch is not None
        # What ran by itself has not come to run again.
        await watch.stop()
        assert store.runner().running
        watch._good_until = 0.0
        await migrate(url, RENAMED, notice_s=0.0)
        with pytest.raises(NotProvisioned, match=r"version 2|being migrated"):
            match how:
                case "create":
                    await store.create(thing(id="2", name="x"))
                case "patch":
                    await store.patch(thing.at("1"), set={"name": "x"})
                case _:
                    await store.bulk(thing(id=str(n), name="x") for n in range(2 * CHUNK))
        assert not store.runner().running
    async with palaver.open(url, schema=RENAMED) as store:
        new: Any = RENAMED.entities["Thing"].entity
        assert ["first"] == [(await store.get(new.at("1"))).title]


async def test_who_looks_in_time_does_not_look_again_before_a_write(url: str) -> None:
    async with old_store(url) as (store, thing):
        watch = store.core.watch
        assert watch is not None
        await watch.stop()
        looks, look = [0], watch.look

        async def counted() -> None:
            looks[0] += 1
            await look()
            watch._good_until = float("inf")

        watch.look = counted  # type: ignore[method-assign]
        watch._good_until = float("inf")
        await store.create(thing(id="1", name="x"))
        assert [0] == looks
        watch._good_until = 0.0
        await asyncio.gather(*(store.create(thing(id=f"{n}", name="x")) for n in range(2, 6)))
        assert [1] == looks


async def test_a_process_that_is_older_than_the_data_by_now_may_do_what_it_might_had_it_been_opened_then(url: str) -> None:
    async with old_store(url) as (store, thing):
        await store.create(thing(id="1", name="first"))
        plan = await migrate(url, ADDED)
        assert plan.automatic
        _, refusal = await asyncio.wait_for(writes(store, thing), 20)
        assert "A newer program stores more of Thing" in refusal.message
        assert "second" == (await store.patch(thing.at("1"), set={"name": "second"})).name
        assert "second" == (await store.get(thing.at("1"))).name
    async with palaver.open(url, schema=ADDED) as store:
        new: Any = ADDED.entities["Thing"].entity
        assert ("second", "?") == ((found := await store.get(new.at("1"))).name, found.mood)


async def test_what_was_dropped_is_not_written_again(url: str) -> None:
    async with old_store(url) as (store, thing):
        await store.create(thing(id="1", name="first"))
        await migrate(url, DROPPED, allow=("Thing.name",))
        with pytest.raises(NotProvisioned):
            await store.create(thing(id="2", name="second"))


async def test_a_migration_that_only_changes_back_to_what_a_process_knows_lets_it_go_on(url: str) -> None:
    async with old_store(url) as (store, thing):
        await migrate(url, ADDED)
        await asyncio.wait_for(writes(store, thing), 20)
        assert store.core.watch is not None
        planner = store.core.planner
        assert planner.behind
        # Somebody restored the database from before it.
        async with palaver.open(url, schema=ADDED) as other:
            stored: Any = (await other.core.records.get((SCHEMA,)))[0]
            body = {**stored["body"], "fingerprint": OLD.fingerprint, "version": 1, "snapshot": OLD.snapshot()}
            await other.core.records.write(
                WriteSet((Put(SCHEMA, {"scope": "schema", "name": "current", "body": body}),), other.core.now_us())
            )
            await store.core.watch.look()
        assert not planner.behind
        await store.create(thing(id="again", name="x"))


@pytest.mark.parametrize("plan", [{"palaver_plan": 99, "digest": "x"}, {"palaver_plan": 1, "actions": [{"do": "Anew"}]}, "later"])
async def test_a_migration_that_this_program_cannot_read_is_not_taken_for_one_that_only_adds(tmp_path: Path, plan: Any) -> None:
    async with old_store(f"sqlite:///{tmp_path}/a.db?sync=normal") as (store, thing):
        core = store.core
        body: Any = {"plan": plan}
        await core.records.write(WriteSet((Put(CURRENT, {"scope": "migrating", "name": "current", "body": body}),), core.now_us()))
        _, refusal = await asyncio.wait_for(writes(store, thing), 20)
        assert "is being migrated" in refusal.message
        await core.records.write(WriteSet((Delete(CURRENT),), core.now_us()))
        assert core.watch is not None
        await core.watch.look()
        await store.create(thing(id="again", name="x"))


async def test_a_load_that_began_before_a_migration_stores_nothing_more_after_it_was_noticed(url: str) -> None:
    async with old_store(url) as (store, thing):
        noticed = asyncio.Event()

        async def source() -> AsyncIterator[Any]:
            for number in range(3 * CHUNK + 3):
                if number == CHUNK + 3:
                    await noticed.wait()
                yield thing(id=f"{number:05d}", name="x")

        loading = asyncio.create_task(store.bulk(source()))
        await migrate(url, ADDED)
        assert store.core.watch is not None
        await store.core.watch.look()
        noticed.set()
        with pytest.raises(NotProvisioned):
            await loading
        table = store.core.planner.codec(thing).table
        assert len((await store.core.records.scan(table, after=None, limit=2 * CHUNK)).records) <= CHUNK
