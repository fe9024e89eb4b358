"""Erasure: everything about one person, nothing about another, and no byte of it left in any file."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

from palaver.clock import ManualClock
from palaver.entity import Entity
from palaver.errors import SchemaError, Validation
from palaver.keys import Index, Key, Ref
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import Erased, erase, repurge
from palaver.lifecycle.ledger import Ledger
from palaver.lifecycle.personal import Mention, Policy, children_first, mask_of
from palaver.lifecycle.purge import purge_inactive
from palaver.markers import Personal, Snowflake, Subject
from palaver.query import Query
from palaver.schema import Schema
from palaver.store import Store
from palaver.system import SYSTEM
from tests.lifecycle.app import SCHEMA, Activity, Conversation, Counter, Feedback, Message, Note, User
from tests.lifecycle.conftest import Opened
from tests.lifecycle.people import CANARY, DOOMED, OTHER, canary, found_in, write_both, write_person

MENTIONS = (Mention(Feedback, "by_owner", ("snapshot", "owner_id")),)
ALL = Policy(mentions=MENTIONS)


def long_unseen(clock: ManualClock) -> Query[Activity]:
    return Activity.by_last_seen().before(clock.now() - timedelta(days=90))


async def write_both_one_away(store: Store, clock: ManualClock) -> Query[Activity]:
    """Store both persons, one of whom was not seen for long; return the query that finds that one."""
    await write_both(store)
    await store.put(Activity(user_id=DOOMED, last_seen=clock.now() - timedelta(days=100)))
    return long_unseen(clock)


async def everything(store: Store) -> dict[str, Any]:
    """Return all stored records by table, as stored."""
    out: dict[str, Any] = {}
    for table in store.core.planner.tables:
        out[table] = (await store.core.records.scan(table, after=None, limit=10_000)).records
    return out


async def test_a_dry_run_counts_what_an_erasure_removes(store: Store) -> None:
    await write_both(store)
    before = await everything(store)
    dry = await erase(store, DOOMED, policy=ALL, dry_run=True)
    assert before == await everything(store)
    assert dry == await erase(store, DOOMED, policy=ALL)
    assert {"User": 1, "Conversation": 2, "Message": 6, "Feedback": 1, "Note": 2, "Activity": 1} == dry.deleted
    assert {"Message": 6} == dry.cascaded
    assert {"Feedback": 1} == dry.masked
    assert {"User": 3} == dry.images
    assert (12, 1) == (dry.objects, dry.claims)
    assert Erased() == await erase(store, DOOMED, policy=ALL)


async def test_records_of_others_stay_as_they_were(store: Store) -> None:
    await write_both(store)
    before = await everything(store)
    await erase(store, DOOMED, policy=ALL)
    after = await everything(store)
    for table, records in before.items():
        if table != SYSTEM.name:
            mine = [record for record in records if DOOMED not in repr(record)]
            assert mine == [record for record in after[table] if record.get("user_id") != f"rater-of-{DOOMED}"]
    assert "good" == (await store.get(Feedback.at("2", f"rater-of-{DOOMED}"))).follow_up
    assert (await store.get(Feedback.at("2", f"rater-of-{DOOMED}"))).snapshot is None
    assert 1 == len((await store.search("talk", "harmless", limit=1)).hits)


async def test_a_person_erased_can_come_back_under_the_same_names(store: Store) -> None:
    await write_both(store)
    await erase(store, DOOMED, policy=ALL)
    await write_person(store, DOOMED, canary, conversations=1)
    assert 1 == (await erase(store, DOOMED, policy=ALL)).deleted["User"]


async def test_no_canary_is_left_in_any_file(opened: Opened, stack: str, folder: Path, clock: ManualClock) -> None:
    store = await opened()
    await write_both(store)
    archive = Archive(store, about={Feedback: ("owner_id",)})
    await archive.run(clock.now().date())
    assert len(found_in(folder)) >= (18 if stack == "sqlite" else 17)
    erased = await erase(store, DOOMED, policy=ALL, archive=archive)
    assert erased.archived >= 13
    assert {} == found_in(folder)
    assert 0 == len((await store.search("talk", CANARY + "content")).hits)
    assert CANARY not in repr(await everything(store))
    assert [] == await archive.verify(clock.now().date())
    await store.aclose()
    assert {} == found_in(folder)


async def test_no_canary_is_left_after_a_purge_that_masks(opened: Opened, folder: Path, clock: ManualClock) -> None:
    store = await opened()
    inactive = await write_both_one_away(store, clock)
    await store.put(Activity(user_id=OTHER, last_seen=clock.now()))
    archive = Archive(store, about={Feedback: ("owner_id",)})
    await archive.run(clock.now().date())
    await store.settle(10)
    policy = Policy({Message: "delete", Conversation: "delete"}, otherwise="mask", mentions=MENTIONS)
    dry = await purge_inactive(store, inactive, policy=policy, archive=archive, dry_run=True)
    purged = await purge_inactive(store, inactive, policy=policy, archive=archive)
    assert dry == purged
    assert 1 == purged.persons
    assert {"User": 1, "Feedback": 2, "Note": 2} == purged.erased.masked
    assert {"Message": 6, "Conversation": 2, "Activity": 1} == purged.erased.deleted
    assert {} == found_in(folder)
    rated = await store.get(Feedback.at("1", DOOMED))
    assert ("positive", None, None) == (rated.rating, rated.follow_up, rated.snapshot)
    assert (await store.get(User.at(DOOMED))).email.startswith("[erased]")
    assert 7 == (await store.get(Counter.at("visits"))).n
    assert 0 == (await purge_inactive(store, inactive, policy=policy)).persons


async def test_a_purge_writes_each_archive_once_and_not_once_a_person(opened: Opened, folder: Path, clock: ManualClock) -> None:
    store = await opened()
    await write_both(store)
    await write_person(store, "u-third", canary)
    long_ago = clock.now() - timedelta(days=100)
    for user in (DOOMED, "u-third"):
        await store.put(Activity(user_id=user, last_seen=long_ago))
    archive = Archive(store, about={Feedback: ("owner_id",)})
    day = clock.now().date()
    await archive.run(day)
    inactive = long_unseen(clock)
    dry = await purge_inactive(store, inactive, policy=ALL, archive=archive, dry_run=True)
    purged = await purge_inactive(store, inactive, policy=ALL, archive=archive)
    assert dry == purged
    assert 2 == purged.persons
    after = await archive.manifest(day)
    assert after is not None
    assert 1 == after.generation
    assert [] == await archive.verify(day)
    await store.settle(10)
    assert {} == found_in(folder)
    named = {row["user_id"] async for row in archive.records(day, Message)}
    assert {OTHER} == named - {"u-assistant"}


async def test_a_purge_that_is_cut_off_is_finished_by_asking_again(
    opened: Opened, folder: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    inactive = await write_both_one_away(store, clock)
    archive = Archive(store, about={Feedback: ("owner_id",)})
    await archive.run(clock.now().date())
    for part in ("rewrite", "save", "tidy"):
        with monkeypatch.context() as patched, pytest.raises(TimeoutError):
            patched.setattr(Archive, part, _fail)
            await purge_inactive(store, inactive, policy=ALL, archive=archive)
    assert 1 == (await purge_inactive(store, inactive, policy=ALL, archive=archive)).persons
    await store.settle(10)
    assert {} == found_in(folder)


async def _fail(*_: Any, **__: Any) -> None:
    raise TimeoutError


async def test_who_is_archived_while_a_purge_runs_is_taken_out_of_that_archive_too(
    opened: Opened, folder: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    inactive = await write_both_one_away(store, clock)
    archive = Archive(store, about={Feedback: ("owner_id",)})
    first, runs = Archive.rewrite, 0

    async def meanwhile(self: Archive, *given: Any, **more: Any) -> int:
        nonlocal runs
        changed = await first(self, *given, **more)
        runs += 1
        if runs == 1:
            await archive.run(clock.now().date())
        return changed

    monkeypatch.setattr(Archive, "rewrite", meanwhile)
    await purge_inactive(store, inactive, policy=ALL, archive=archive)
    await store.settle(10)
    assert {} == found_in(folder)
    assert [] == await archive.verify(clock.now().date())


async def test_who_was_seen_meanwhile_is_not_purged(store: Store, clock: ManualClock) -> None:
    inactive = await write_both_one_away(store, clock)
    stale = [found async for found in store.query(inactive)]
    await store.patch(Activity.at(DOOMED), set={"last_seen": clock.now()})

    async def late(_: Any) -> Any:
        for found in stale:
            yield found

    beside = type("Beside", (Store,), {"query": lambda self, _: late(_)})(store.core)
    assert 0 == (await purge_inactive(beside, inactive)).persons


async def test_a_restored_backup_is_purged_again_but_not_what_came_after(opened: Opened, clock: ManualClock) -> None:
    store = await opened()
    await write_both(store)
    await erase(store, DOOMED, policy=ALL)
    (entry,) = await Ledger(store).entries()
    assert DOOMED not in repr(entry)
    assert (True, 1) == (entry.done, entry.counts["deleted"]["User"])
    restored_at = clock.now()
    await write_person(store, DOOMED, canary)  # what the backup brings back
    entry = replace(entry, at_us=entry.at_us + 10_000_000)
    clock.advance(timedelta(minutes=5))
    await store.create(Note(note_id="new", user_id=DOOMED, text="written after the erasure"))
    assert restored_at < clock.now()
    total = await repurge(store, [entry])
    assert 2 == total.deleted["Note"]
    assert "new" == (await store.get(Note.at("new"))).note_id
    assert await store.find(User.at(DOOMED)) is None
    assert 1 == (await store.get(User.at(OTHER))).revision // (await store.get(User.at(OTHER))).revision


async def test_the_ledger_outlives_the_database(opened: Opened) -> None:
    store = await opened()
    await write_both(store)
    await erase(store, DOOMED)
    records = (await store.core.records.scan(SYSTEM.name, after=None, limit=1000)).records
    from palaver.ops import Delete, WriteSet
    from palaver.system import system

    gone = [Delete(system("erased", record["name"])) for record in records if record["scope"] == "erased"]
    assert 1 == len(gone)
    await store.core.records.write(WriteSet(gone, store.core.now_us()))
    assert [Ledger(store).who(DOOMED)] == [entry.who for entry in await Ledger(store).entries()]


async def test_an_erasure_that_was_cut_off_is_finished_by_asking_again(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_both(store)

    async def cut_off(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(store.core.blobs, "delete", cut_off)
        with pytest.raises(RuntimeError):
            await erase(store, DOOMED, policy=ALL)
    assert [False] == [entry.done for entry in await Ledger(store).entries()]
    await erase(store, DOOMED, policy=ALL)
    assert [True] == [entry.done for entry in await Ledger(store).entries()]
    assert {} == found_in(folder)


async def test_expired_records_are_erased_as_well(store: Store, folder: Path, clock: ManualClock) -> None:
    await write_both(store)
    clock.advance(timedelta(days=400))
    erased = await erase(store, DOOMED, policy=ALL)
    assert 6 == erased.deleted["Message"]
    assert {} == found_in(folder)


async def test_objects_waiting_for_their_time_are_erased_with_their_jobs(store: Store, folder: Path, clock: ManualClock) -> None:
    await write_both(store)
    clock.advance(timedelta(days=400))
    await store.sweep()
    await store.settle(10)
    erased = await erase(store, DOOMED, policy=ALL)
    assert {} == found_in(folder)
    jobs = [job for job in (await everything(store))[SYSTEM.name] if job["scope"] == "blob" and DOOMED in repr(job)]
    assert [] == jobs
    assert 0 == erased.deleted.get("Message", 0)


async def test_nobody_is_not_everybody(store: Store) -> None:
    with pytest.raises(Validation):
        await erase(store, "")


class Club(Entity, table="clubs"):
    club_id: str
    founder: Annotated[str, Subject()]
    motto: Annotated[str | None, Personal()] = None
    key = Key("club_id")
    by_founder = Index("founder", sort="club_id")


class Member(Entity, table="members"):
    club_id: str
    user_id: Annotated[str, Subject()]
    nick: Annotated[str | None, Personal()] = None
    key = Key("club_id", sort="user_id")
    by_user = Index("user_id", sort="club_id")
    club = Ref("club_id", to=Club, on_delete="restrict")


async def test_a_record_others_need_is_masked_instead_of_deleted(opened: Opened) -> None:
    store = await opened(schema=Schema("clubs", [Club, Member]))
    await store.create(Club(club_id="1", founder="u", motto="mine"))
    await store.create(Club(club_id="2", founder="u", motto="alone"))
    for club, user in (("1", "u"), ("1", "v"), ("2", "u")):
        await store.create(Member(club_id=club, user_id=user, nick="x"))
    dry = await erase(store, "u", dry_run=True)
    assert dry == await erase(store, "u")
    assert ({"Club": 1, "Member": 2}, {"Club": 1}) == (dry.deleted, dry.held)
    assert (await store.get(Club.at("1"))).motto is None
    assert await store.find(Club.at("2")) is None
    assert "x" == (await store.get(Member.at("1", "v"))).nick


def test_children_come_before_what_they_refer_to() -> None:
    names = [declared.name for declared in children_first(SCHEMA)]
    assert names.index("Message") < names.index("Conversation")
    assert len(SCHEMA.entities) == len(names)


def test_an_entity_found_only_by_a_scan_is_a_warning() -> None:
    assert [("subject_unindexed", "warning", "Note")] == [(found.code, found.level, found.where) for found in SCHEMA.diagnostics]


class Strict(Entity, table="strict"):
    id: Annotated[Snowflake, Personal()]
    user_id: Annotated[str, Subject()]
    number: Annotated[Snowflake, Personal()]
    key = Key("id")


def test_a_field_that_cannot_be_cleared_is_refused_before_anything_is_done() -> None:
    with pytest.raises(SchemaError):
        mask_of(Strict.declared(), ["id"])
    with pytest.raises(SchemaError):
        mask_of(Strict.declared(), ["number"])
    with pytest.raises(SchemaError):
        mask_of(Strict.declared(), ["numbers"])
