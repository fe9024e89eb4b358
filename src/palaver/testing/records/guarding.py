"""Facts about guards: what each means, that all are judged against the state before, and that one failure stops all."""

from __future__ import annotations

import asyncio

from palaver.expr import F
from palaver.ops import MARK, REVISION, Absent, Add, Alive, Check, Guard, Holds, Op, Origin, Put, Refused, Set, Unchanged, Written
from palaver.ports import RecordEngine
from palaver.testing.records.base import (
    COUNTERS,
    NOTES,
    NOW,
    NOW_S,
    RecordSuite,
    address,
    all_changes,
    attempt,
    bare,
    delete,
    guards,
    note,
    put,
    put_note,
    read_kind,
    read_notes,
    refused,
    stored,
    update,
    written,
)


class Existence(RecordSuite):
    """Absent, Alive and Unchanged over: nothing, a live, an expired and a marked record."""

    async def _four(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "live"), put_note("u", "expired", expires=NOW_S - 1), put_note("u", "marked"))
        await written(engine, update(NOTES, ("u", "marked"), Set(F(MARK), NOW)))

    async def test_absent_holds_over_nothing_and_an_expired_record_only(self, engine: RecordEngine) -> None:
        await self._four(engine)
        for id, expected in (("none", True), ("expired", True), ("live", False), ("marked", False)):
            done = await attempt(engine, Check(address(NOTES, "u", id), guards(Absent())))
            assert expected == isinstance(done, Written), id

    async def test_alive_holds_over_a_live_record_only(self, engine: RecordEngine) -> None:
        await self._four(engine)
        for id, expected in (("none", False), ("expired", False), ("live", True), ("marked", False)):
            done = await attempt(engine, Check(address(NOTES, "u", id), guards(Alive())))
            assert expected == isinstance(done, Written), id

    async def test_creating_over_an_expired_record_replaces_it_and_grows_the_revision(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 1, text="old"))
        done = await written(engine, put_note("u", "1", Absent(), stamp=1))
        assert [NOW + 1] == list(done.revisions)
        assert note("u", "1", stamp=1) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_creating_over_a_marked_record_is_refused(self, engine: RecordEngine) -> None:
        await self._four(engine)
        failure = (await refused(engine, put_note("u", "marked", Absent()))).failures[0]
        assert failure.found is not None
        assert failure.found[MARK] == NOW

    async def test_creating_over_a_record_both_marked_and_expired_is_refused(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S - 1))
        await written(engine, update(NOTES, ("u", "1"), Set(F(MARK), NOW)))
        await refused(engine, put_note("u", "1", Absent()))

    async def test_a_record_expires_at_the_instant_and_not_before(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", expires=NOW_S))
        alive = Check(address(NOTES, "u", "1"), guards(Alive()))
        assert isinstance(await attempt(engine, alive, now_us=NOW - 1), Written)
        assert isinstance(await attempt(engine, alive, now_us=NOW), Refused)
        assert isinstance(await attempt(engine, alive, now_us=NOW + 1), Refused)

    async def test_a_record_without_expiry_never_expires(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, Check(address(NOTES, "u", "1"), guards(Alive())), now_us=NOW * 3)

    async def test_a_table_that_declares_no_expiry_has_none(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a", "hits": 1}))
        await written(engine, Check(address(COUNTERS, "a"), guards(Alive())), now_us=NOW * 3)

    async def test_unchanged_holds_for_exactly_this_revision(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        for revision, expected in ((NOW, True), (NOW - 1, False), (NOW + 1, False), (None, False)):
            done = await attempt(engine, Check(address(NOTES, "u", "1"), guards(Unchanged(revision))))
            assert expected == isinstance(done, Written)

    async def test_unchanged_none_holds_only_where_nothing_at_all_is_stored(self, engine: RecordEngine) -> None:
        await self._four(engine)
        for id, expected in (("none", True), ("expired", False), ("live", False), ("marked", False)):
            done = await attempt(engine, Check(address(NOTES, "u", id), guards(Unchanged(None))))
            assert expected == isinstance(done, Written), id

    async def test_unchanged_sees_an_expired_and_a_marked_record(self, engine: RecordEngine) -> None:
        await self._four(engine)
        await written(engine, delete(NOTES, "u", "expired", when=[Unchanged(NOW)]), delete(NOTES, "u", "marked", when=[Unchanged(NOW + 1)]))
        assert ["live"] == [record["id"] for record in await self.all_of(engine, read_notes("u"))]

    async def test_unchanged_fails_where_the_record_is_gone(self, engine: RecordEngine) -> None:
        assert (await refused(engine, put_note("u", "1", Unchanged(NOW)))).failures[0].found is None

    async def test_a_second_writer_with_the_same_revision_is_refused(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        await written(engine, put_note("u", "1", Unchanged(NOW), stamp=1))
        await refused(engine, put_note("u", "1", Unchanged(NOW), stamp=2))
        assert note("u", "1", stamp=1) == bare(await stored(engine, NOTES, "u", "1"))

    async def test_a_condition_is_judged_on_an_empty_record_where_none_is_live(self, engine: RecordEngine) -> None:
        await self._four(engine)
        for id in ("none", "expired", "marked"):
            await refused(engine, Check(address(NOTES, "u", id), guards(F("owner") == "u")))
            await written(engine, Check(address(NOTES, "u", id), guards(F("owner").missing())))
        await written(engine, Check(address(NOTES, "u", "live"), guards(F("owner") == "u")))


class Batches(RecordSuite):
    async def test_a_refused_op_is_not_written(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        await refused(engine, put_note("u", "1", Absent(), stamp=2))
        await refused(engine, update(NOTES, ("u", "1"), Set(F("stamp"), 3), when=[F("stamp") == 2]))
        await refused(engine, delete(NOTES, "u", "1", when=[F("stamp") > 1]))
        assert {**note("u", "1", stamp=1), REVISION: NOW} == await stored(engine, NOTES, "u", "1")

    async def test_one_refused_op_keeps_all_others_from_being_written(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", kind="k", stamp=1), put_note("u", "2"), put(COUNTERS, {"name": "a", "hits": 1}))
        before = await all_changes(engine)
        for place in range(4):
            ops: list[Op] = [put_note("u", "3", kind="k", stamp=3), update(COUNTERS, ("a",), Add(F("hits"), 1)), delete(NOTES, "u", "1")]
            failed = await refused(engine, *ops[:place], put_note("u", "2", Absent()), *ops[place:])
            assert [place] == [failure.op for failure in failed.failures]
        assert ["1", "2"] == [record["id"] for record in await self.all_of(engine, read_notes("u"))]
        assert ["1"] == [record["id"] for record in await self.all_of(engine, read_kind("k"))]
        assert {"name": "a", "hits": 1} == bare(await stored(engine, COUNTERS, "a"))
        assert before == await all_changes(engine)

    async def test_every_failed_op_is_listed_in_order_with_what_was_found(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1), put_note("u", "3", stamp=3))
        failed = await refused(
            engine,
            put_note("u", "1", Absent()),
            put_note("u", "2", Absent()),
            update(NOTES, ("u", "9"), Set(F("stamp"), 0), when=[Alive()]),
            delete(NOTES, "u", "3", when=[F("stamp") == 4]),
            Check(address(NOTES, "u", "8"), guards(Alive())),
        )
        assert [0, 2, 3, 4] == [failure.op for failure in failed.failures]
        found = [failure.found for failure in failed.failures]
        assert [{**note("u", "1", stamp=1), REVISION: NOW}, None, {**note("u", "3", stamp=3), REVISION: NOW}, None] == found

    async def test_a_failure_names_the_first_guard_that_failed(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1))
        asked = (Guard(Alive(), Origin(3, "alive")), Guard(Holds(F("stamp") == 2), Origin(4, "two")), Guard(Absent(), Origin(5, "absent")))
        failed = await refused(engine, Put(address(NOTES, "u", "1"), note("u", "1"), asked))
        assert [Origin(4, "two")] == [failure.guard.origin for failure in failed.failures]

    async def test_all_guards_of_an_op_must_hold(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1", stamp=1, text="a"))
        await written(engine, Check(address(NOTES, "u", "1"), guards(Alive(), F("stamp") == 1, F("text") == "a", Unchanged(NOW))))
        await refused(engine, Check(address(NOTES, "u", "1"), guards(Alive(), F("stamp") == 1, F("text") == "b", Unchanged(NOW))))

    async def test_guards_are_judged_against_the_state_before_the_batch(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "2"))
        await refused(engine, put_note("u", "1"), Check(address(NOTES, "u", "1"), guards(Alive())))
        await written(engine, delete(NOTES, "u", "2"), Check(address(NOTES, "u", "2"), guards(Alive())))
        assert [] == await self.all_of(engine, read_notes("u"))

    async def test_a_failed_check_of_another_table_stops_the_batch(self, engine: RecordEngine) -> None:
        await refused(engine, put_note("u", "1"), Check(address(COUNTERS, "a"), guards(Alive())))
        assert await stored(engine, NOTES, "u", "1") is None

    async def test_a_batch_of_a_hundred_ops_over_several_tables_is_written(self, engine: RecordEngine) -> None:
        notes = [put_note("u", f"{n:02d}", Absent()) for n in range(50)]
        counters = [put(COUNTERS, {"name": f"c{n}", "hits": n}, Absent()) for n in range(50)]
        await written(engine, *notes, *counters)
        assert 50 == len(await self.all_of(engine, read_notes("u")))
        assert 50 == len(await self.scanned(engine, COUNTERS))

    async def test_a_hundred_refused_ops_are_all_listed(self, engine: RecordEngine) -> None:
        failed = await refused(engine, *(put_note("u", f"{n:02d}", Alive()) for n in range(100)))
        assert list(range(100)) == [failure.op for failure in failed.failures]
        assert [] == await all_changes(engine)


class Races(RecordSuite):
    async def test_of_many_concurrent_creates_exactly_one_wins(self, engine: RecordEngine) -> None:
        done = await asyncio.gather(*(attempt(engine, put_note("u", "1", Absent(), stamp=n)) for n in range(50)))
        winners = [n for n, each in enumerate(done) if isinstance(each, Written)]
        assert 1 == len(winners)
        assert note("u", "1", stamp=winners[0]) == bare(await stored(engine, NOTES, "u", "1"))
        assert 1 == len(await all_changes(engine))

    async def test_of_many_concurrent_replacements_of_one_revision_exactly_one_wins(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "1"))
        done = await asyncio.gather(*(attempt(engine, put_note("u", "1", Unchanged(NOW), stamp=n)) for n in range(30)))
        assert 1 == sum(isinstance(each, Written) for each in done)

    async def test_a_hundred_concurrent_counts_are_exact(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a"}))
        await asyncio.gather(*(written(engine, update(COUNTERS, ("a",), Add(F("hits"), 1))) for _ in range(100)))
        assert {"name": "a", "hits": 100, REVISION: NOW + 100} == await stored(engine, COUNTERS, "a")
        revisions = [change.revision for change in await all_changes(engine)]
        assert list(range(NOW, NOW + 101)) == revisions

    async def test_concurrent_guarded_withdrawals_never_overdraw(self, engine: RecordEngine) -> None:
        await written(engine, put(COUNTERS, {"name": "a", "hits": 10}))
        withdraw = update(COUNTERS, ("a",), Add(F("hits"), -1), when=[F("hits") > 0])
        done = await asyncio.gather(*(attempt(engine, withdraw) for _ in range(25)))
        assert 10 == sum(isinstance(each, Written) for each in done)
        assert {"name": "a", "hits": 0} == bare(await stored(engine, COUNTERS, "a"))

    async def test_a_refused_batch_leaves_its_concurrent_neighbours_alone(self, engine: RecordEngine) -> None:
        await written(engine, put_note("u", "taken"))
        batches = [[put_note("u", f"{n:02d}"), *([put_note("u", "taken", Absent())] if n % 3 == 0 else [])] for n in range(30)]
        done = await asyncio.gather(*(attempt(engine, *batch) for batch in batches))
        assert [n % 3 != 0 for n in range(30)] == [isinstance(each, Written) for each in done]
        kept = [f"{n:02d}" for n in range(30) if n % 3]
        assert [*kept, "taken"] == [record["id"] for record in await self.all_of(engine, read_notes("u"))]

    async def test_a_snapshot_never_shows_half_a_transfer(self, engine: RecordEngine) -> None:
        names = [f"account {n}" for n in range(4)]
        await written(engine, *(put(COUNTERS, {"name": name, "hits": 100}) for name in names))

        async def transfer(n: int) -> None:
            source, target = names[n % 4], names[(n * 7 + 1) % 4]
            if source != target:
                await written(engine, update(COUNTERS, (source,), Add(F("hits"), -1)), update(COUNTERS, (target,), Add(F("hits"), 1)))

        async def balance() -> int:
            found = await engine.get([address(COUNTERS, name) for name in names], snapshot=True)
            return sum(record["hits"] for record in found if record)  # type: ignore[misc]

        mixed = [each for n in range(60) for each in (transfer(n), balance())]
        assert {None, 400} == set(await asyncio.gather(*mixed))

    async def test_a_cancelled_write_is_written_whole_or_not_at_all(self, engine: RecordEngine) -> None:
        for n in range(30):
            task = asyncio.create_task(attempt(engine, put_note("u", f"{n:02d}a"), put_note("u", f"{n:02d}b")))
            for _ in range(n % 6):
                await asyncio.sleep(0 if n < 15 else 0.0005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await written(engine, put_note("u", "last"))
        found: list[str] = []
        for _ in range(100):
            # What was cancelled may be on its way still, over another connection than what was written last.
            before, found = found, [str(record["id"]) for record in await self.all_of(engine, read_notes("u"))]
            if found == before:
                break
            await asyncio.sleep(0.05)
        assert "last" == found.pop()
        assert [id for id in found if id.endswith("a")] == [id[:2] + "a" for id in found if id.endswith("b")]
        assert sorted([*found, "last"]) == sorted(str(change.key[1]) for change in await all_changes(engine))

    async def test_readers_see_whole_batches_while_writers_write(self, engine: RecordEngine) -> None:
        async def write() -> None:
            for n in range(20):
                await written(engine, put_note("u", "a", stamp=n), put_note("u", "b", stamp=n))

        async def read() -> None:
            for _ in range(40):
                a, b = await engine.get([address(NOTES, "u", "a"), address(NOTES, "u", "b")], snapshot=True)
                assert (a["stamp"] if a else None) == (b["stamp"] if b else None)
                await asyncio.sleep(0)

        await asyncio.gather(write(), read(), read())
