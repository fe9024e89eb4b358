"""Every listener in every process hears what any process committed, at least once, or is told to start anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

import palaver
from palaver import Store, feed, following
from palaver.errors import ConditionFailed, ConfigError, Conflict, Unavailable
from palaver.following import Wrote, settled_head
from palaver.ops import Address, Change, ChangePage, Op
from palaver.ports import TrimsFeed
from tests.cache.people import NOTES, PEOPLE, Hearing, Note, Plain, User, eventually
from tests.stacks import fresh


@pytest.fixture
async def stores(url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two processes, as far as stores can tell; in memory there is but one."""
    async with palaver.open(url, schema=PEOPLE, migrate=True, maintain=False) as one:
        if url.startswith("memory"):
            yield one, one
            return
        async with palaver.open(url, schema=PEOPLE, maintain=False) as other:
            yield one, other


def running() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("palaver-following")}


async def test_what_another_process_commits_is_heard(stores: tuple[Store, Store]) -> None:
    writer, reader = stores
    hearing = Hearing()
    subscription = reader.following.add(hearing)
    await subscription.ready()
    assert (1, []) == (hearing.misses, hearing.told)
    await writer.put(User(user_id="ann"))
    await writer.put(Plain(id="elsewhere"))
    await writer.put(User(user_id="ben"))
    await eventually(lambda: hearing.heard() == {"ann", "ben"})
    await writer.delete(User.at("ann"))
    await eventually(lambda: [] != [change for change in hearing.told[2:] if change.key == ("ann",)])
    await writer.sweep()
    await eventually(lambda: "deleted" == hearing.told[-1].kind)
    assert {"users"} == {change.table for change in hearing.told}
    subscription.close()
    subscription.close()
    await asyncio.sleep(0)
    await eventually(lambda: not running())
    await writer.put(User(user_id="cy"))
    assert "cy" not in hearing.heard()


async def test_a_store_to_which_nobody_listens_follows_nothing(stores: tuple[Store, Store]) -> None:
    writer, _ = stores
    await writer.put(User(user_id="ann"))
    assert writer.core.follower is None
    assert not running()


async def test_closing_a_store_ends_it(url: str) -> None:
    async with palaver.open(url, schema=PEOPLE, migrate=True, maintain=False) as store:
        first, second = store.following.add(Hearing()), store.following.add(Hearing(Plain))
        await first.ready()
        assert running()
        second.close()
        assert running()
        # One that is being closed just as the store is.
        first.close()
    assert not running()
    with pytest.raises(ConfigError):
        store.following.add(Hearing())


async def test_who_waits_for_a_beginning_that_never_comes_is_told(stores: tuple[Store, Store]) -> None:
    _, reader = stores
    failing = Hearing()
    failing.failing = KeyError()
    subscription = reader.following.add(failing)
    waiting = asyncio.create_task(subscription.ready())
    await eventually(lambda: failing.failed)
    assert not waiting.done()
    subscription.close()
    with pytest.raises(ConfigError, match="ended"):
        await waiting


async def test_nothing_that_is_committed_after_the_beginning_is_missed(stores: tuple[Store, Store]) -> None:
    """Who reads everything when told to start anew, and then listens, has all: nothing falls between the two."""
    writer, reader = stores

    class Copy(Hearing):
        def __init__(self) -> None:
            super().__init__(Plain)
            self.known: set[str] = set()

        async def missed(self) -> None:
            await super().missed()
            self.known = set()
            for number in range(60):
                if await reader.find(Plain.at(f"p{number}")) is not None:
                    self.known.add(f"p{number}")

        async def changed(self, changes: Sequence[Change]) -> None:
            await super().changed(changes)
            self.known |= {str(change.key[0]) for change in changes}

    async def write() -> None:
        for number in range(60):
            await writer.put(Plain(id=f"p{number}"))
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    copies = []
    for _ in range(6):
        copies.append(Copy())
        reader.following.add(copies[-1])
        await asyncio.sleep(0.01)
    await writing
    everything = {f"p{number}" for number in range(60)}
    for copy in copies:
        await eventually(lambda copy=copy: copy.known == everything)  # type: ignore[misc]
    assert [1] * 6 == [copy.misses for copy in copies]


async def test_changes_of_one_record_are_told_as_one(stores: tuple[Store, Store]) -> None:
    writer, reader = stores
    hearing = Hearing(Plain)
    await reader.following.add(hearing).ready()
    await writer.bulk([Plain(id=f"p{number % 10}", number=number) for number in range(300)])
    last = [await writer.put(Plain(id=f"p{number}", number=1_000)) for number in range(10)]
    await eventually(lambda: {change.revision for change in hearing.told} >= {entity.revision for entity in last})
    assert len(hearing.told) < 310
    order = [change.position for change in hearing.told]
    assert sorted(order) == order


async def test_one_that_fails_is_told_again_and_stops_nobody(stores: tuple[Store, Store], caplog: pytest.LogCaptureFixture) -> None:
    writer, reader = stores
    good, bad = Hearing(), Hearing()
    await reader.following.add(bad).ready()
    await reader.following.add(good).ready()
    bad.failing = Conflict("The secret name of ann")
    with caplog.at_level(logging.WARNING, "palaver.following"):
        await writer.put(User(user_id="ann"))
        await writer.put(User(user_id="ben"))
        await eventually(lambda: good.heard() == {"ann", "ben"} and bad.failed >= 2)
    assert ["a listener to changes failed: conflict"] == [record.getMessage() for record in caplog.records]
    bad.failing = None
    await eventually(lambda: bad.heard() == {"ann", "ben"})
    assert (1, 1) == (good.misses, bad.misses)


async def test_one_that_keeps_failing_is_told_to_start_anew(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = stores
    monkeypatch.setattr(following, "PATIENCE_S", 0.3)
    hearing = Hearing()
    await reader.following.add(hearing).ready()
    hearing.failing = KeyError("ann")
    await writer.put(User(user_id="ann"))
    await eventually(lambda: hearing.failed > 4)
    hearing.failing = None
    await eventually(lambda: hearing.misses == 2)
    await writer.put(User(user_id="ben"))
    await eventually(lambda: hearing.heard() == {"ben"})


async def test_one_that_hangs_holds_up_the_others_for_a_while_only(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = stores
    monkeypatch.setattr(following, "PATIENCE_S", 0.2)

    class Hanging(Hearing):
        async def changed(self, changes: Sequence[Change]) -> None:
            await asyncio.Event().wait()

    good, bad = Hearing(), Hanging()
    await reader.following.add(bad).ready()
    await reader.following.add(good).ready()
    for name in ("ann", "ben", "cy"):
        await writer.put(User(user_id=name))
        await eventually(lambda name=name: name in good.heard())  # type: ignore[misc]
    await eventually(lambda: bad.misses > 1)


async def test_where_the_feed_was_trimmed_everybody_starts_anew(stores: tuple[Store, Store]) -> None:
    writer, reader = stores
    hearing, other = Hearing(), Hearing(Plain)
    await reader.following.add(hearing).ready()
    await reader.following.add(other).ready()
    hearing.failing = KeyError()
    await writer.put(User(user_id="ann"))
    await eventually(lambda: hearing.failed > 0)
    await writer.put(User(user_id="ben"))
    await writer.put(Plain(id="p"))
    await eventually(lambda: other.heard() == {"p"})
    assert isinstance(writer.core.records, TrimsFeed)
    await writer.core.records.trim((await writer.core.records.changes(None, 0)).head + 1)
    hearing.failing = None
    await eventually(lambda: hearing.misses == 2)
    await writer.put(User(user_id="cy"))
    await eventually(lambda: hearing.heard() == {"cy"})
    assert 1 == other.misses


async def test_after_a_long_stop_everybody_starts_anew(stores: tuple[Store, Store]) -> None:
    writer, reader = stores
    hearing = Hearing()
    await reader.following.add(hearing).ready()
    follower = reader.core.follower
    assert follower is not None
    await writer.put(User(user_id="ann"))
    await eventually(lambda: hearing.told)
    follower._looked_at -= 3_600
    await writer.put(User(user_id="ben"))
    await eventually(lambda: hearing.misses == 2)


async def test_a_feed_that_cannot_be_read_is_read_again(stores: tuple[Store, Store], caplog: pytest.LogCaptureFixture) -> None:
    writer, reader = stores
    hearing = Hearing()
    await reader.following.add(hearing).ready()
    records = reader.core.follower._records  # type: ignore[union-attr]

    class Away:
        limits = records.limits

        async def changes(self, after: int | None, limit: int) -> object:
            raise Unavailable("gone")

    with caplog.at_level(logging.WARNING, "palaver.following"):
        reader.core.follower._records = Away()  # type: ignore[union-attr]
        await writer.put(User(user_id="ann"))
        await eventually(lambda: caplog.records)
        reader.core.follower._records = records  # type: ignore[union-attr]
    await eventually(lambda: hearing.heard() == {"ann"})
    assert ["changes are not heard of: unavailable"] == [record.getMessage() for record in caplog.records]


async def test_a_tenants_store_hears_of_that_tenant(url: str) -> None:
    async with palaver.open(url, schema=NOTES, migrate=True, maintain=False) as store:
        acme, all_of_them = Hearing(Note), Hearing(Note)
        await store.for_tenant("acme").following.add(acme).ready()
        await store.following.add(all_of_them).ready()
        for tenant in ("acme", "zeta", "acme2"):
            await store.for_tenant(tenant).put(Note(tenant=tenant, id=f"of {tenant}"))
        await eventually(lambda: all_of_them.heard() == {"of acme", "of zeta", "of acme2"})
        assert {"of acme"} == acme.heard()


async def test_who_hears_of_this_processs_writes_hears_before_they_return(stores: tuple[Store, Store]) -> None:
    writer, _ = stores

    class Own(Hearing):
        def __init__(self) -> None:
            super().__init__(User, Plain)
            self.wrote_: list[Wrote] = []

        async def wrote(self, writes: Sequence[Wrote]) -> None:
            self.wrote_ += writes
            raise KeyError("it raises nothing to the writer")

    own = Own()
    writer.following.add(own)
    ann = await writer.create(User(user_id="ann", email="a@example.org"))
    assert [Wrote(Address("users", ("ann",)), ann.revision, created=True)] == own.wrote_
    ann = await writer.patch(ann, set={"name": "Ann"})
    assert Wrote(Address("users", ("ann",)), ann.revision) == own.wrote_[-1]
    again = await writer.patch(User.at("ann"), set={"name": "Anna"}, token="one")
    await writer.patch(User.at("ann"), set={"name": "Anna"}, token="one")
    assert [Wrote(Address("users", ("ann",)), again.revision)] * 2 == own.wrote_[-2:]
    await writer.bulk([Plain(id="p1"), Plain(id="p2")])
    known = {each.at.key[0]: each.revision for each in own.wrote_[-2:]}
    assert {"p1": (await writer.get(Plain.at("p1"))).revision, "p2": (await writer.get(Plain.at("p2"))).revision} == known
    await writer.delete(Plain.at("p1"))
    assert Address("plain", ("p1",)) == own.wrote_[-1].at
    count = len(own.wrote_)
    with pytest.raises(ConditionFailed):
        await writer.patch(User.at("nobody"), set={"name": "x"})
    assert count == len(own.wrote_)


async def test_several_who_wait_for_one_file_are_all_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner of projections and the follower wait on one connection: what one of them notices, the other is told."""
    # A wake-up that is lost costs the whole of it.
    for waits in (feed, following):
        monkeypatch.setattr(waits, "IDLE_S", 60.0)
    url = f"sqlite:///{tmp_path}/a.db?sync=normal"
    async with (
        palaver.open(url, schema=PEOPLE, maintain=True) as reader,
        palaver.open(url, schema=PEOPLE, maintain=False) as writer,
    ):
        hearing = Hearing(Plain)
        await reader.following.add(hearing).ready()
        for number in range(20):
            await writer.put(Plain(id=f"p{number}"))
            await eventually(lambda number=number: f"p{number}" in hearing.heard())  # type: ignore[misc]
            await asyncio.sleep(0.03 * (number % 3))


class Seen:
    """A projection of nothing."""

    name = "seen"

    async def apply(self, changes: Sequence[Change]) -> Sequence[Op]:
        return ()

    async def rebuild(self) -> None: ...


async def test_on_dynamodb_whoever_runs_projections_copies_the_feed_for_all(tmp_path: Path) -> None:
    url = fresh("dynamodb", tmp_path)
    async with (
        palaver.open(url, schema=PEOPLE, migrate=True, maintain=False, projections=[lambda _: Seen()]) as worker,
        palaver.open(url, schema=PEOPLE, maintain=False) as reader,
    ):
        hearing = Hearing(Plain)
        await reader.following.add(hearing).ready()
        copied = 0
        changes = reader.core.records.changes

        async def counting(after: int | None, limit: int) -> ChangePage:
            nonlocal copied
            copied += 1
            return await changes(after, limit)

        reader.core.records.changes = counting  # type: ignore[method-assign]
        await worker.put(Plain(id="nobody copies"))
        await eventually(lambda: hearing.heard() == {"nobody copies"})
        assert copied > 0
        worker.runner().start()
        await eventually(lambda: worker.core.runner and worker.core.runner._leases)
        follower = reader.core.follower
        assert follower is not None
        follower._copy_at = 0
        await eventually(lambda: follower._copy_at > 0)
        copied = 0
        for number in range(5):
            await worker.put(Plain(id=f"p{number}"))
            await eventually(lambda number=number: f"p{number}" in hearing.heard())  # type: ignore[misc]
            follower._copy_at = 0
        assert 0 == copied


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[tuple[Store, Callable[[], AbstractAsyncContextManager[int]]]]:
    """A store on PostgreSQL, where positions are given before they are committed, and a transaction that has one and waits."""

    async with palaver.open(
        fresh("postgresql", tmp_path), schema=PEOPLE, migrate=True, maintain=False, projections=[lambda _: Seen()]
    ) as store:
        await store.put(Plain(id="before"))
        pool = store.core.records.pool  # type: ignore[attr-defined]
        names = store.core.records.feed._names  # type: ignore[attr-defined]
        text = (
            f"INSERT INTO {names.changes} (position, entity, key, revision, kind, more)"
            f" SELECT $1, entity, key, revision, kind, more FROM {names.changes} LIMIT 1"
        )

        @asynccontextmanager
        async def waiting() -> AsyncIterator[int]:
            async with pool.transaction() as connection:
                ((drawn,),) = await connection.fetch(f"SELECT nextval('{names.positions}')")
                await connection.execute(text, drawn)
                await store.put(Plain(id="newer"))
                yield drawn

        yield store, waiting


Behind = tuple[Store, Callable[[], AbstractAsyncContextManager[int]]]


async def test_a_change_that_is_committed_behind_a_newer_one_is_not_passed(behind: Behind) -> None:
    store, waiting = behind
    async with waiting() as drawn:
        assert await settled_head(store.core.records) is None
        hearing = Hearing(Plain)
        subscription = store.following.add(hearing)
        await asyncio.sleep(0.2)
        assert 0 == hearing.misses
    await asyncio.wait_for(subscription.ready(), 20)
    head = await settled_head(store.core.records)
    assert head is not None
    assert head > drawn


async def test_a_projection_is_not_rebuilt_past_a_change_that_may_still_come(behind: Behind) -> None:
    store, waiting = behind
    async with waiting():
        rebuilding = asyncio.create_task(store.rebuild("seen"))
        await asyncio.sleep(0.2)
        assert not rebuilding.done()
    await asyncio.wait_for(rebuilding, 20)
