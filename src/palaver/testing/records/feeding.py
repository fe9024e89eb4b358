"""Facts about the change feed: each commit once and in order, causes, released keys, trimming and waking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from palaver.errors import Trimmed, Validation
from palaver.expr import F
from palaver.ops import MARK, Absent, Address, Alive, Cause, Change, Check, Delete, Put, Remove, Set, Unchanged, Update, WriteSet
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    INTS,
    NOTES,
    NOW,
    NOW_S,
    NUMBERS,
    QUIET,
    WIDE,
    RecordSuite,
    address,
    all_changes,
    delete,
    guards,
    head,
    loaded,
    note,
    put,
    put_note,
    refused,
    stored,
    update,
    written,
)


def short(changes: list[Change]) -> list[tuple[Any, ...]]:
    return [(change.table, change.key, change.revision, change.kind) for change in changes]


def by_record(changes: list[Change]) -> dict[Any, list[tuple[Any, ...]]]:
    """Return the changes of each record in their order: an order across records is not promised everywhere."""
    found: dict[Any, list[tuple[Any, ...]]] = {}
    for change in changes:
        found.setdefault((change.table, change.key), []).append((change.revision, change.kind))
    return found


class TotalOrder(RecordSuite):
    """What a feed adds that is written in the commits themselves: the order of commits, and of the ops in one."""

    async def test_changes_are_in_the_order_of_commits(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, put(INTS, {"bucket": -1, "n": 5}))
        await written(engine, delete(NOTES, "u", "1"))
        expected = [
            (NOTES.name, ("u", "1"), NOW, "created"),
            (INTS.name, (-1, 5), NOW, "created"),
            (NOTES.name, ("u", "1"), NOW + 1, "deleted"),
        ]
        assert expected == short(await all_changes(engine))

    async def test_the_changes_of_a_batch_are_in_the_order_of_its_ops(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "3"), put_note("u", "1"), put_note("u", "2"))
        await written(engine, delete(NOTES, "u", "2"), put_note("u", "4"), update(NOTES, ("u", "3"), Remove(F("text"))))
        keys = [(change.key[1], change.kind) for change in await all_changes(engine)]
        assert [("3", "created"), ("1", "created"), ("2", "created"), ("2", "deleted"), ("4", "created"), ("3", "updated")] == keys

    async def test_the_changes_of_a_load_are_in_the_order_of_its_records(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "2"))
        await loaded(engine, *(put_note("u", id) for id in "3124"))
        keys = [(change.key[1], change.kind) for change in await all_changes(engine)]
        assert [("2", "created"), ("3", "created"), ("1", "created"), ("2", "updated"), ("4", "created")] == keys


class Feed(RecordSuite):
    async def test_every_committed_write_is_one_change(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, put_note("u", "1", stamp=1))
        await written(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 2)))
        await written(engine, put(INTS, {"bucket": -1, "n": 5}))
        await written(engine, delete(NOTES, "u", "1"))
        expected = {
            (NOTES.name, ("u", "1")): [(NOW, "created"), (NOW + 1, "updated"), (NOW + 2, "updated"), (NOW + 3, "deleted")],
            (INTS.name, (-1, 5)): [(NOW, "created")],
        }
        assert expected == by_record(await all_changes(engine))

    async def test_every_op_of_a_batch_is_one_change(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "3"), put_note("u", "1"), put_note("u", "2"))
        await written(engine, delete(NOTES, "u", "2"), put_note("u", "4"), update(NOTES, ("u", "3"), Remove(F("text"))))
        found = {key[1]: [kind for _, kind in changes] for (_, key), changes in by_record(await all_changes(engine)).items()}
        assert {"1": ["created"], "2": ["created", "deleted"], "3": ["created", "updated"], "4": ["created"]} == found

    async def test_positions_grow_and_pages_of_any_size_give_the_same_changes(self, engine: RecordEngine) -> None:
        for n in range(20):
            await written(engine, put_note("u", f"{n % 6}", stamp=n))
        whole = await all_changes(engine)
        positions = [change.position for change in whole]
        assert 20 == len(set(positions))
        assert sorted(positions) == positions
        for limit in (1, 3, 20, 21):
            assert whole == await all_changes(engine, limit=limit)
        assert whole[5:] == await all_changes(engine, after=positions[4])

    async def test_a_page_of_changes_says_where_it_ends_and_where_the_feed_ends(self, engine: RecordEngine) -> None:
        await written(engine, *(put_note("u", f"{n}") for n in range(5)))
        positions = [change.position for change in await all_changes(engine)]
        page = await engine.changes(None, 2)
        assert (positions[1], positions[4]) == (page.last, page.head)
        rest = await engine.changes(page.last, 100)
        assert (positions[4], positions[4]) == (rest.last, rest.head)
        beyond = await engine.changes(rest.last, 100)
        assert ([], positions[4], positions[4]) == (list(beyond.changes), beyond.last, beyond.head)

    async def test_an_empty_feed_is_read_and_followed(self, engine: RecordEngine) -> None:
        page = await engine.changes(None, 10)
        assert [] == list(page.changes)
        assert page.head == page.last
        await written(engine, put_note("u", "1"))
        assert 1 == len((await engine.changes(page.last, 10)).changes)

    async def test_a_refused_batch_leaves_no_change(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        before = await head(engine)
        await refused(engine, put_note("u", "2"), delete(NOTES, "u", "1"), put_note("u", "1", Absent()))
        assert before == await head(engine)
        assert 1 == len(await all_changes(engine))

    async def test_a_batch_that_raises_leaves_no_change(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        with pytest.raises(Validation):
            await engine.write(WriteSet([put_note("u", "2"), update(NOTES, ("u", "1"), Set(F("data.a"), 1))], NOW))
        assert 1 == len(await all_changes(engine))

    async def test_deleting_or_updating_nothing_and_checking_are_no_changes(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(
            engine,
            delete(NOTES, "u", "2"),
            delete(NOTES, "u", "3", expired=True),
            update(NOTES, ("u", "4"), Set(F("stamp"), 1)),
            Check(address(NOTES, "u", "1"), guards(Alive())),
        )
        assert 1 == len(await all_changes(engine))

    async def test_an_expired_delete_has_its_own_kind(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 5))
        await written(engine, delete(NOTES, "u", "1", expired=True))
        assert ["created", "expired"] == [change.kind for change in await all_changes(engine)]

    async def test_marking_a_record_is_an_update(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, update(NOTES, ("u", "1"), Set(F(MARK), NOW)))
        assert ["created", "updated"] == [change.kind for change in await all_changes(engine)]

    async def test_a_table_without_feed_leaves_no_changes(self, engine: RecordEngine) -> None:
        await written(engine, put(QUIET, {"name": "a"}), put_note("u", "1"))
        await written(engine, put(QUIET, {"name": "a", "text": "x"}))
        await written(engine, delete(QUIET, "a"))
        assert [NOTES.name] == [change.table for change in await all_changes(engine)]

    async def test_a_cause_is_no_hindrance_where_there_is_no_feed_to_carry_it(self, engine: RecordEngine) -> None:
        cause = Cause("migrate")
        new = guards(Unchanged(None))
        await written(engine, put(QUIET, {"name": "a"})._replace(guards=new), cause=cause)
        await written(engine, put(QUIET, {"name": "b"})._replace(guards=new), put_note("u", "1")._replace(guards=new), cause=cause)
        await loaded(engine, put(QUIET, {"name": "a"}), put(QUIET, {"name": "c"}), cause=cause)
        assert [(NOTES.name, cause)] == [(change.table, change.cause) for change in await all_changes(engine)]

    async def test_a_load_leaves_a_change_of_every_record_whatever_the_order_of_its_keys(self, engine: RecordEngine) -> None:
        keys = [100, 5, -7, 2**63 - 1, 7, -(2**63)]
        for some in (keys[:1], keys[1:4], keys[4:]):
            await loaded(engine, *(put(NUMBERS, {"n": n, "text": "t"}) for n in some))
        assert sorted((n,) for n in keys) == sorted(change.key for change in await all_changes(engine))

    async def test_a_change_carries_its_cause(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"), cause=Cause("anna 'x\" ☃", "token-1"))
        await written(engine, put_note("u", "1"), put_note("u", "2"), cause=Cause("", None))
        await loaded(engine, put_note("u", "3"), put_note("u", "1"), cause=Cause(None, "t"))
        causes: dict[Any, list[Cause]] = {"1": [], "2": [], "3": []}
        for change in await all_changes(engine):
            causes[change.key[1]].append(change.cause)
        ones = [Cause("anna 'x\" ☃", "token-1"), Cause("", None), Cause(None, "t")]
        assert {"1": ones, "2": [Cause("", None)], "3": [Cause(None, "t")]} == causes

    async def test_a_change_carries_the_keys_it_released(self, engine: RecordEngine) -> None:
        released = ("a/b/c", "x 'y' \"z\"", "ü/☃")
        at = address(NOTES, "u", "1")
        await written(engine, put_note("u", "1"))
        await written(engine, Put(at, note("u", "1"), released=released))
        await written(engine, Update(at, (Set(F("stamp"), 1),), released=released[:1]))
        await written(engine, Delete(at, released=released[1:]))
        changes = await all_changes(engine)
        assert [(), released, released[:1], released[1:]] == [change.released for change in changes]
        assert ["created", "updated", "updated", "deleted"] == [change.kind for change in changes]

    async def test_the_changes_of_one_record_are_in_the_order_of_revisions(self, engine: RecordEngine) -> None:
        for n in range(10):
            await written(engine, put_note("u", "1", stamp=n), now_us=NOW - n * 1_000_000)
        await written(engine, delete(NOTES, "u", "1"), now_us=NOW - 10**12)
        revisions = [change.revision for change in await all_changes(engine)]
        assert list(range(NOW, NOW + 11)) == revisions

    async def test_a_change_holds_the_key_in_its_own_types(self, engine: RecordEngine) -> None:
        key = ("t'1", "g", -5, "ÿ\U0010ffff")
        await written(engine, put(WIDE, dict(zip(WIDE.key, key, strict=True))))
        assert [key] == [change.key for change in await all_changes(engine)]
        assert await stored(engine, WIDE, *key) is not None

    async def test_a_change_holds_no_values(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", text="canary-value", data={"x": "canary-value"}))
        await written(engine, update(NOTES, ("u", "1"), Set(F("text"), "canary-value2")))
        assert "canary" not in repr(await engine.changes(None, 100))

    async def test_concurrent_writers_leave_every_change_once(self, engine: RecordEngine) -> None:
        await asyncio.gather(*(written(engine, put_note(f"u{n % 5}", f"{n}"), put(COUNTERS, {"name": f"{n}"})) for n in range(50)))
        changes = await all_changes(engine, limit=7)
        assert 100 == len(changes)
        assert 100 == len({change[1:3] for change in changes})
        assert 100 == len({change.position for change in changes})

    async def test_a_reader_that_follows_misses_nothing_of_concurrent_writers(self, engine: RecordEngine) -> None:
        seen: list[Change] = []

        async def follow() -> None:
            after = None
            while len(seen) < 60:
                page = await engine.changes(after, 4)
                seen.extend(page.changes)
                after = page.last
                await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(follow(), *(written(engine, put_note("u", f"{n}")) for n in range(60))), 30)
        assert {("u", f"{n}") for n in range(60)} == {change.key for change in seen}
        assert await all_changes(engine) == seen


class Trimming(RecordSuite):
    async def _ten_changes(self, engine: RecordEngine) -> list[int]:
        await written(engine, *(put_note("u", f"{n}") for n in range(10)))
        return [change.position for change in await all_changes(engine)]

    async def _trim(self, engine: Any, before: int) -> int:
        return await engine.trim(before)  # type: ignore[no-any-return]

    async def test_trimming_forgets_what_is_older_and_keeps_the_rest(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        assert 5 == await self._trim(engine, positions[5])
        assert positions[5:] == [change.position for change in await all_changes(engine)]
        assert positions[9] == await head(engine)

    async def test_a_reader_older_than_the_feed_is_told(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        await self._trim(engine, positions[5])
        for position in (positions[0], positions[3]):
            with pytest.raises(Trimmed):
                await engine.changes(position, 10)

    async def test_a_reader_who_missed_nothing_goes_on(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        await self._trim(engine, positions[5])
        for n in (4, 5, 9):
            assert positions[n + 1 :] == [change.position for change in (await engine.changes(positions[n], 10)).changes]

    async def test_trimming_twice_and_trimming_nothing_forget_nothing_more(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        assert 0 == await self._trim(engine, positions[0])
        assert 5 == await self._trim(engine, positions[5])
        assert 0 == await self._trim(engine, positions[5])
        assert 0 == await self._trim(engine, positions[2])

    async def test_positions_are_not_used_again_after_everything_was_trimmed(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        assert 10 == await self._trim(engine, positions[9] + 1)
        assert [] == await all_changes(engine)
        assert positions[9] == await head(engine)
        again = await self.reopen(engine)
        await written(again, put_note("u", "new"))
        (change,) = await all_changes(again)
        assert change.position > positions[9]
        assert [change] == list((await again.changes(positions[9], 10)).changes)
        with pytest.raises(Trimmed):
            await again.changes(positions[8], 10)

    async def test_a_reader_from_the_oldest_kept_can_go_on_from_an_empty_page(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        await self._trim(engine, positions[9] + 1)
        page = await engine.changes(None, 10)
        assert ([], positions[9]) == (list(page.changes), page.last)
        assert [] == list((await engine.changes(page.last, 10)).changes)

    async def test_trimming_leaves_the_records_alone(self, engine: RecordEngine) -> None:
        positions = await self._ten_changes(engine)
        await self._trim(engine, positions[9])
        assert 10 == len(await self.scanned(engine, NOTES))


class Waking(RecordSuite):
    async def _wait(self, engine: Any, after: int, timeout: float) -> bool:
        return await engine.wait_for_change(after, timeout)  # type: ignore[no-any-return]

    async def test_waiting_ends_at_once_where_a_change_is_there(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        assert await asyncio.wait_for(self._wait(engine, await head(engine) - 1, 30), 5)

    async def test_waiting_ends_when_a_change_comes(self, engine: RecordEngine) -> None:
        before = await head(engine)
        waiting = [asyncio.create_task(self._wait(engine, before, 30)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        await written(engine, put_note("u", "1"))
        assert [True] * 3 == await asyncio.wait_for(asyncio.gather(*waiting), 5)

    async def test_waiting_in_vain_ends_with_the_time(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        assert not await self._wait(engine, await head(engine), 0.02)

    async def test_a_waiter_may_be_cancelled(self, engine: RecordEngine) -> None:
        waiting = asyncio.create_task(self._wait(engine, await head(engine), 30))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await written(engine, Put(Address(NOTES.name, ("u", "1")), note("u", "1")))
        assert 1 == len(await all_changes(engine))
