"""A copy is the source under another URL: everything as it was stored, and the feed going on where it was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.clock import ManualClock
from palaver.errors import ConfigError, Conflict, Duplicate, NotProvisioned, ReadOnly, StorageFull, Unavailable
from palaver.lifecycle import copy_pace
from palaver.lifecycle.copy import Copied, Copy, Watch
from palaver.lifecycle.copy_clashes import Clash
from palaver.lifecycle.copy_ends import INTO, End, identity
from palaver.lifecycle.copy_progress import LEASE_MS, Progress
from palaver.lifecycle.copy_verify import Verified, verify
from palaver.ops import REVISION, Address, Delete, Put, WriteSet, revision_of
from palaver.store import Store
from palaver.system import system
from palaver.testing.faulty import Faults, Faulty
from tests.lifecycle.app import SCHEMA, Conversation, Message, Note, User
from tests.lifecycle.copying import BASE, dump, fill, message_of, opened, sqlite, url_of

KINDS = [("memory", "sqlite"), ("sqlite", "memory"), ("sqlite", "postgres"), ("postgres", "dynamodb"), ("dynamodb", "sqlite")]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls an emulator needs some."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class Two:
    """A source with something of everything, and an empty target."""

    def __init__(self, source: End, target: End) -> None:
        # Two memory stacks have one name.
        self.source = replace(source, name=f"from {source.name}")
        self.target = replace(target, name=f"to {target.name}")
        self.store = Store(source.core)

    async def copy(self, **options: Any) -> Copied:
        running = {name: options.pop(name) for name in ("follow", "until_caught_up", "stop") if name in options}
        return await Copy(self.source, self.target, **options).run(**running)

    async def same(self) -> None:
        mine, theirs = await dump(self.source), await dump(self.target)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name] == theirs[name], name
        assert (await verify(self.source, self.target)).same


@pytest.fixture
async def stack() -> Any:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=KINDS, ids="-".join)
async def two(request: pytest.FixtureRequest, tmp_path: Path, stack: AsyncExitStack) -> Two:
    kinds = request.param
    made = Two(
        await stack.enter_async_context(opened(url_of(kinds[0], tmp_path, "a"))),
        await stack.enter_async_context(opened(url_of(kinds[1], tmp_path, "b"))),
    )
    await fill(made.store)
    return made


@pytest.fixture
async def files(tmp_path: Path, stack: AsyncExitStack) -> Two:
    made = Two(
        await stack.enter_async_context(opened(sqlite(tmp_path, "a"))), await stack.enter_async_context(opened(sqlite(tmp_path, "b")))
    )
    await fill(made.store)
    return made


# --- equal ------------------------------------------------------------------------------------------------------------


async def test_everything_is_there_as_it_was_stored(two: Two) -> None:
    report = await two.copy()
    assert report.finished
    assert report.settled
    assert not report.resumed
    await two.same()
    dumped = await dump(two.target)
    assert 30 < len(dumped["users-history"])
    assert len(dumped["objects"]) == report.objects > 40
    assert sum(report.records.values()) > 300


async def test_the_feed_goes_on_where_the_sources_is(two: Two) -> None:
    changes = list((await two.source.records.changes(None, 10_000)).changes)
    await two.copy()
    page = await two.target.records.changes(None, 10_000)
    # No projection ever ran here, so each has all of it before it.
    assert changes == list(page.changes)
    assert page.head == changes[-1].position
    await Store(two.target.core).create(Note(note_id="new", user_id="u", text="t"))
    after = await two.target.records.changes(page.head, 10)
    assert [("new",)] == [change.key for change in after.changes]


async def test_the_target_is_a_store_that_goes_on(two: Two) -> None:
    await two.copy()
    store = Store(two.target.core)
    with pytest.raises(Duplicate):
        await store.create(User(user_id="another", email=next(iter(await _emails(store)))))
    swept = await store.sweep()
    assert swept.cascaded or swept.objects
    await store.settle(20)


async def _emails(store: Store) -> list[str]:
    found: list[str] = []
    for n in range(30):
        user = await store.find(User.at(f"u1-{n}"))
        if user is not None:
            found.append(user.email)
    assert found
    return found


async def test_what_was_written_once_by_a_token_is_not_written_again(files: Two) -> None:
    kept = next(n for n, email in enumerate(await _emails(files.store)))
    user = f"u1-{kept}"
    asked = User(
        user_id=user, email=f"{user}@example.org", name="ÿ\U0001f600", balance=Decimal("1.50"), avatar=b"\0\xff", tags=frozenset({"a", "b"})
    )
    await files.copy()
    before = await dump(files.target)
    await Store(files.target.core).create(asked, token=f"token {user}")
    assert before == await dump(files.target)


async def test_a_search_of_the_target_finds_what_is_there(two: Two) -> None:
    await two.copy()
    found = await Store(two.target.core).search("talk", "dortmund", limit=1_000)
    core = Store(two.source.core)
    live = [n async for n in _live(core)]
    assert len(live) <= found.total


async def _live(store: Store) -> Any:
    for n in range(30):
        for m in range(4):
            message = await store.find(Message.at(f"c u1-{n}", str(BASE + (n + 1_000) * 10 + m)))
            if message is not None:
                yield message


# --- who may copy into what -------------------------------------------------------------------------------------------


async def test_a_target_that_holds_something_is_refused_and_left_alone(two: Two) -> None:
    await Store(two.target.core).create(Note(note_id="mine", user_id="u", text="t"))
    before = await dump(two.target)
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()
    assert before == await dump(two.target)


async def test_a_target_whose_records_are_gone_again_has_been_used(two: Two) -> None:
    store = Store(two.target.core)
    await store.delete(await store.create(Note(note_id="mine", user_id="u", text="t")))
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()


async def test_objects_of_others_in_the_target_are_refused_and_left_alone(two: Two) -> None:
    await two.target.core.blobs.put("somebody/else", b"1")
    with pytest.raises(Conflict, match="not empty"):
        await two.copy()
    assert b"1" == await two.target.core.blobs.get("somebody/else")


async def test_one_place_for_the_objects_of_both_keeps_them(tmp_path: Path, stack: AsyncExitStack) -> None:
    shared = f"&blobs=file:{tmp_path}/objects"
    made = Two(
        await stack.enter_async_context(opened(sqlite(tmp_path, "a") + shared)),
        await stack.enter_async_context(opened(sqlite(tmp_path, "b") + shared)),
    )
    await fill(made.store, 5)
    report = await made.copy()
    assert (0, 0) == (report.objects, report.removed_objects)
    await made.same()


async def test_one_database_under_two_names_is_refused(tmp_path: Path, stack: AsyncExitStack) -> None:
    one = await stack.enter_async_context(opened(sqlite(tmp_path, "a")))
    other = await stack.enter_async_context(opened(sqlite(tmp_path, "a")))
    await fill(Store(one.core), 3)
    with pytest.raises(ConfigError, match="same database"):
        await Copy(one, other).run()
    with pytest.raises(ConfigError, match="same database"):
        await Copy(one, replace(other, name="another name"), into_existing=True).run()
    assert (None,) == tuple(await one.records.get((INTO,)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.db", "sqlite:///a.db"),
        ("sqlite:///a.db?sync=normal", "sqlite:///./a.db"),
        ("postgresql://u:secret@Host:5432/db?pool=3", "postgresql://v:other@host:5432/db"),
        ("dynamodb://eu-west-1/p?search=x", "dynamodb://eu-west-1/p"),
    ],
)
def test_urls_of_one_database_are_seen_to_be_so(one: str, other: str) -> None:
    assert identity(one) == identity(other)
    assert "secret" not in identity(one)


def test_urls_of_two_databases_are_not_taken_for_one() -> None:
    urls = ("a.db", "b.db", "postgresql://h/a", "postgresql://h/b", "postgresql://h/a?schema=s", "dynamodb://eu/p", "dynamodb://us/p")
    assert len(urls) == len({identity(each) for each in urls})


async def test_a_symbolic_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    assert identity(f"{tmp_path}/a.db") == identity(f"sqlite:///{tmp_path}/b.db")


async def test_another_version_of_the_schema_is_refused(files: Two, tmp_path: Path) -> None:
    newer = {"name": SCHEMA.name, "version": SCHEMA.version + 1, "fingerprint": "x"}
    put = Put(system("schema", "current"), {"scope": "schema", "name": "current", "body": newer})  # type: ignore[dict-item]
    await files.source.records.write(WriteSet((put,), 1))
    with pytest.raises(NotProvisioned, match="source was written with version"):
        await files.copy()


async def test_an_unfinished_copy_cannot_be_opened_and_a_finished_one_can(files: Two, tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    report = await files.copy(follow=True, stop=stop)
    assert not report.finished
    with pytest.raises(NotProvisioned, match="has not ended"):
        async with palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA):
            pass
    assert (await files.copy()).finished
    async with palaver.open(sqlite(tmp_path, "b"), schema=SCHEMA) as store:
        assert await store.find(Note.at("u1-1")) is not None


async def test_an_unfinished_copy_is_no_source(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    third = await stack.enter_async_context(opened(sqlite(tmp_path, "c")))
    with pytest.raises(Conflict, match="unfinished copy"):
        await Copy(files.target, third).run()


async def test_a_copy_of_another_source_is_refused_begun_and_ended(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    third = await stack.enter_async_context(opened(sqlite(tmp_path, "c")))
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    with pytest.raises(Conflict, match="another source"):
        await Copy(third, files.target).run()
    await files.copy()
    with pytest.raises(Conflict, match="not empty"):
        await Copy(third, files.target).run()


async def test_a_finished_copy_is_brought_up_to_date_until_it_is_used(two: Two) -> None:
    await two.copy()
    await fill(two.store, 5, seed=2)
    assert (await two.copy()).resumed
    await two.same()
    await Store(two.target.core).create(Note(note_id="mine", user_id="u", text="t"))
    with pytest.raises(Conflict, match="used since"):
        await two.copy()


async def test_two_copiers_at_once_are_one_too_many(files: Two) -> None:
    stop, begun = asyncio.Event(), asyncio.Event()

    class Begun(Watch):
        def records(self, table: str, count: int) -> None:
            begun.set()

    first = asyncio.create_task(files.copy(follow=True, stop=stop, watch=Begun()))
    await begun.wait()
    with pytest.raises(Conflict, match="Another process"):
        await files.copy()
    stop.set()
    await first
    assert (await files.copy()).finished


async def test_a_copier_that_was_taken_over_stops(files: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await files.copy(follow=True, stop=stop)
    old = await Progress.find(files.target)
    new = await Progress.find(files.target)
    assert old is not None
    assert new is not None
    async with new.held():
        with pytest.raises(palaver.errors.Fenced):
            async with old.held():
                raise AssertionError
    with pytest.raises(palaver.errors.Fenced):
        old.check()
    assert LEASE_MS > 0


async def test_a_schema_that_changes_meanwhile_ends_the_copy_unfinished(files: Two) -> None:
    stop = asyncio.Event()
    following = asyncio.create_task(files.copy(follow=True, until_caught_up=False, stop=stop))
    await asyncio.sleep(0.3)
    stop.set()
    await following
    progress = await Progress.find(files.target)
    assert progress is not None
    progress.schema = "another"
    async with progress.held():
        pass
    with pytest.raises(Conflict, match="schema changed"):
        await files.copy()


# --- cut off, throttled, full -----------------------------------------------------------------------------------------


async def test_a_network_that_fails_anywhere_only_makes_it_slower(two: Two) -> None:
    source, target = two.source.core.records, two.target.core.records
    two.source.core.records = Faulty(source, 3, Faults(unavailable=0.1, throttled=0.1))
    two.target.core.records = Faulty(target, 4, Faults(unavailable=0.1, throttled=0.1, outcome_unknown=0.1))
    report = await two.copy()
    assert report.finished
    assert report.throttled
    two.source.core.records, two.target.core.records = source, target
    await two.same()


async def _forget_the_dead(two: Two) -> None:
    """Do what time does: the lease of a copier that is gone runs out."""
    record = (await two.target.records.get((INTO,)))[0]
    if record is not None:
        body: Any = {**record["body"], "holder": None}  # type: ignore[dict-item]
        await two.target.records.write(WriteSet((Put(INTO, {"scope": "copy", "name": "into", "body": body}),), 1))


async def test_a_target_that_throttles_is_asked_less_at_once() -> None:
    pace = copy_pace.Pace()
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise palaver.errors.Throttled
        return calls

    assert 4 == await pace.run(call)
    assert (1, 3) == (pace.allowed, pace.throttled)
    for _ in range(copy_pace.GROW_AFTER * 3):
        await pace.run(call)
    assert 4 == pace.allowed


async def test_no_more_calls_run_at_once_than_are_allowed() -> None:
    pace, running, most = copy_pace.Pace(most=3), 0, 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await asyncio.gather(*(pace.run(call) for _ in range(20)))
    assert 3 == most


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages, each noted: more points at which something can go wrong."""
    monkeypatch.setattr("palaver.lifecycle.copy_records.SCAN", 5)
    monkeypatch.setattr("palaver.lifecycle.copy_progress.SAVE_EVERY_S", 0.0)


@pytest.mark.usefixtures("small_steps")
async def test_a_page_that_could_not_be_stored_is_not_taken_for_stored(files: Two) -> None:
    engine: Any = files.target.core.records
    left = 0

    async def restore(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise StorageFull("The disk is full.")
        return await engine.restore(*arguments, **options)

    full: Any = Faulty(engine, 1)
    full.restore = restore
    files.target.core.records = full
    failed = 0
    for page in (3, 9, 5, 4, 6, 8, 2):
        left = page
        try:
            await files.copy()
        except StorageFull:
            failed += 1
    assert failed > 3
    files.target.core.records = engine
    assert (await files.copy()).finished
    await files.same()


@pytest.mark.usefixtures("small_steps")
async def test_a_side_that_stays_away_ends_the_copy_and_it_goes_on_later(files: Two) -> None:
    engine = files.target.core.records

    class Cut(Faulty):
        left = 40

        async def _around(self, work: Any, *, writes: bool = False) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Unavailable("The network is cut.")
            return await work()

    files.target.core.records = Cut(engine, 1)
    files.target.pace = copy_pace.Pace(patience_s=0.2)
    with pytest.raises(Unavailable):
        await files.copy()
    files.target.core.records = engine
    await _forget_the_dead(files)
    report = await files.copy()
    assert report.resumed
    await files.same()


async def test_a_target_without_room_says_so_and_the_copy_goes_on_when_there_is_some(files: Two) -> None:
    database: Any = files.target.records.database  # type: ignore[attr-defined]
    pages = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchall()[0][0])
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 8}").fetchall())
    with pytest.raises(StorageFull):
        await files.copy()
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchall())
    assert (await files.copy()).finished
    await files.same()


async def test_a_target_that_cannot_be_written_says_so(files: Two, tmp_path: Path, stack: AsyncExitStack) -> None:
    target = await stack.enter_async_context(End.open(sqlite(tmp_path, "b"), SCHEMA, read_only=True))
    with pytest.raises(ReadOnly):
        await Copy(files.source, target).run()


# --- following --------------------------------------------------------------------------------------------------------


async def test_what_is_written_and_removed_meanwhile_arrives(two: Two) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        for seed in range(2, 8):
            await fill(two.store, 6, seed=seed)
            for n in range(6):
                await two.store.delete(Note.at(f"u{seed - 1}-{n}"))
            await asyncio.sleep(0.02)
        stop.set()

    await asyncio.gather(two.copy(follow=True, stop=stop), write())
    report = await two.copy(follow=True, until_caught_up=True)
    assert report.finished
    assert report.settled
    await two.same()


async def test_a_record_made_anew_by_a_slow_clock_replaces_the_one_it_had_copied(two: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await two.copy(follow=True, stop=stop)
    at = Address("notes", ("u1-3",))
    old = (await two.source.records.get((at,)))[0]
    assert old is not None
    await two.source.records.write(WriteSet((Delete(at),), 5))
    record = {name: value for name, value in old.items() if name != REVISION}
    await two.source.records.write(WriteSet((Put(at, {**record, "text": "anew"}),), 5))
    await two.copy()
    found = (await two.target.records.get((at,)))[0]
    assert found is not None
    assert (5, "anew") == (revision_of(found), found["text"])
    await two.same()


async def test_a_feed_that_no_longer_reaches_back_is_made_up_for(two: Two) -> None:
    stop = asyncio.Event()
    stop.set()
    await two.copy(follow=True, stop=stop)
    await fill(two.store, 8, seed=5)
    await two.store.delete(Note.at("u1-4"))
    head = (await two.source.records.changes(None, 0)).head
    await two.source.records.trim(head + 1)  # type: ignore[attr-defined]
    await two.copy()
    await two.same()
    assert head == (await two.target.records.changes(None, 0)).head
    await Store(two.target.core).settle(20)


async def test_the_lag_is_told(files: Two) -> None:
    seen: list[int] = []

    class Told(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            seen.append(positions)

    await files.copy(follow=True, until_caught_up=True, watch=Told())
    assert 0 == seen[-1]


async def test_a_source_that_was_made_anew_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """The URL is the same; what was copied of the one before would stay for ever."""
    stop = asyncio.Event()
    stop.set()
    async with opened(sqlite(tmp_path, "a")) as source, opened(sqlite(tmp_path, "b")) as target:
        await fill(Store(source.core), 10)
        await Copy(source, target).run(follow=True, stop=stop)
        await fill(Store(source.core), 2, seed=2)
        await Copy(source, target).run(follow=True, until_caught_up=True)
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"a.db{end}").unlink(missing_ok=True)
    async with opened(sqlite(tmp_path, "a")) as source, opened(sqlite(tmp_path, "b")) as target:
        await fill(Store(source.core), 2, seed=9)
        with pytest.raises(Conflict, match="made anew"):
            await Copy(source, target).run()
        # It is no less another one where it has grown past the one before.
        await fill(Store(source.core), 12, seed=8)
        with pytest.raises(Conflict, match="made anew"):
            await Copy(source, target).run()


async def test_a_source_that_lost_its_end_while_it_is_followed_is_noticed(files: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a failover to a server that was behind."""
    engine: Any = files.source.records
    changes, lost = engine.changes, 0

    async def shorter(after: int | None, limit: int) -> Any:
        page = await changes(after, limit)
        return page._replace(head=page.head - lost) if after is None else page

    monkeypatch.setattr(engine, "changes", shorter)

    class Losing(Watch):
        def lag(self, positions: int, seconds: float) -> None:
            nonlocal lost
            lost = 1

    with pytest.raises(Conflict, match="lost what it had last"):
        await files.copy(follow=True, watch=Losing())


# --- into what is there -----------------------------------------------------------------------------------------------


async def test_into_existing_keeps_what_is_newer_and_removes_nothing(two: Two) -> None:
    clock = ManualClock(two.source.core.clock.now())
    clock.advance(palaver.clock.days(1))
    two.target.core.clock = clock
    target = Store(two.target.core)
    await target.create(Note(note_id="u1-2", user_id="u", text="newer here"))
    await target.create(Note(note_id="mine", user_id="u", text="only here"))
    await two.target.core.blobs.put("only/here", b"1")
    await two.store.delete(Note.at("u1-5"))
    report = await two.copy(into_existing=True)
    assert report.finished
    assert ["newer here", "only here", "n"] == [(await target.get(Note.at(name))).text for name in ("u1-2", "mine", "u1-1")]
    assert b"1" == await two.target.core.blobs.get("only/here")
    assert 2 <= (await target.search("talk", "dortmund")).total
    found = await verify(two.source, two.target)
    notes = next(row for row in found.tables if row.entity == "Note")
    assert (0, 1, 1) == (notes.missing, notes.different, notes.extra)


async def test_unique_values_that_clash_are_named_before_anything_is_written(two: Two) -> None:
    target = Store(two.target.core)
    users = [user for n in range(30) if (user := await two.store.find(User.at(f"u1-{n}"))) is not None]
    for n in range(2):
        await target.create(User(user_id=f"there {n}", email=users[n].email, name="x"))
    # The same record on both sides is no clash, nor is a value its holder in the source gave up since.
    await target.create(User(user_id=users[2].user_id, email=users[2].email))
    before = await dump(two.target)
    named: list[Clash] = []

    class Told(Watch):
        def clash(self, clash: Clash) -> None:
            named.append(clash)

    with pytest.raises(Conflict, match=r"User\.by_email \(email\): 2\. Nothing was copied") as refused:
        await two.copy(into_existing=True, watch=Told())
    assert not any(user.email in f"{refused.value.message} {refused.value.hint}" for user in users)
    assert {((users[n].user_id,), (f"there {n}",)) for n in range(2)} == {(each.source, each.target) for each in named}
    assert before == await dump(two.target)
    assert (None,) == tuple(await two.target.records.get((INTO,)))

    for n in range(2):
        await target.delete(User.at(f"there {n}"))
    assert (await two.copy(into_existing=True)).finished
    with pytest.raises(Duplicate):
        await target.create(User(user_id="another", email=users[0].email))


async def test_a_value_whose_holder_here_is_newer_and_gave_it_up_is_no_clash(two: Two) -> None:
    clock = ManualClock(two.source.core.clock.now())
    clock.advance(palaver.clock.days(1))
    two.target.core.clock = clock
    target = Store(two.target.core)
    users = [user for n in range(30) if (user := await two.store.find(User.at(f"u1-{n}"))) is not None]
    # Here the first has another address by now, and somebody else the one it has there.
    await target.create(User(user_id=users[0].user_id, email="moved@example.org"))
    await target.create(User(user_id="heir", email=users[0].email))
    assert (await two.copy(into_existing=True)).finished
    with pytest.raises(Duplicate):
        await target.create(User(user_id="another", email=users[0].email))
    await target.delete(User.at("heir"))
    await target.create(User(user_id="next", email=users[0].email))


async def test_a_clash_that_writers_made_meanwhile_ends_it_unfinished(files: Two) -> None:
    await Store(files.target.core).create(User(user_id="there", email="late@example.org"))

    class Late(Watch):
        made = False

        def lag(self, positions: int, seconds: float) -> None:
            if not self.made:
                self.made = True
                tasks.append(asyncio.create_task(files.store.create(User(user_id="late", email="late@example.org"))))
            elif not positions and tasks[0].done():
                stop.set()

    tasks: list[asyncio.Task[User]] = []
    stop = asyncio.Event()
    await files.copy(into_existing=True, watch=Late(), follow=True, stop=stop)
    with pytest.raises(Conflict, match=r"While this was copied.*User\.by_email: 1") as refused:
        await files.copy(into_existing=True)
    assert "at the source" in refused.value.hint
    await files.store.delete(User.at("late"))
    assert (await files.copy(into_existing=True)).finished


# --- telling differences ----------------------------------------------------------------------------------------------


async def _verified(two: Two) -> Verified:
    return await verify(two.source, two.target)


async def test_every_kind_of_difference_is_counted_and_named(two: Two) -> None:
    await two.copy()
    engine: Any = two.target.records
    note = (await engine.get((Address("notes", ("u1-1",)),)))[0]
    await engine.restore("notes", [{**note, REVISION: note[REVISION] + 1}, {**note, "note_id": "extra"}], gone=[("u1-2",)])
    key = sorted([info.key async for info in two.target.core.blobs.list()])[3]
    await two.target.core.blobs.delete([key])
    await two.target.core.blobs.put("a/b", b"extra")
    named: list[tuple[str, str, str]] = []
    found = await verify(two.source, two.target, found=lambda each: named.append((each.table, str(each.key[0]), each.kind)))
    assert not found.same
    notes = next(row for row in found.tables if row.entity == "Note")
    assert (1, 1, 1) == (notes.missing, notes.different, notes.extra)
    assert (1, 0, 1) == (found.objects.missing, found.objects.different, found.objects.extra)
    assert {
        ("notes", "u1-1", "different"),
        ("notes", "u1-2", "missing"),
        ("notes", "extra", "extra"),
        ("(objects)", key, "missing"),
        ("(objects)", "a/b", "extra"),
    } == set(named)
    assert all(row.same for row in found.tables if row.entity != "Note")


async def test_an_object_with_other_bytes_is_different(files: Two, tmp_path: Path) -> None:
    await files.copy()
    file = next(path for path in sorted((tmp_path / "b.db.blobs").rglob("*")) if path.is_file())
    data = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert 1 == (await _verified(files)).objects.different


async def test_a_swap_of_two_values_is_a_difference(two: Two) -> None:
    await two.copy()
    engine: Any = two.target.records
    one, other = await engine.get((Address("notes", ("u1-1",)), Address("notes", ("u1-2",))))
    await engine.restore("notes", [{**one, "user_id": other["user_id"]}, {**other, "user_id": one["user_id"]}])
    notes = next(row for row in (await _verified(two)).tables if row.entity == "Note")
    assert 2 == notes.different


async def test_the_conversations_of_a_pending_cascade_go_in_the_target(files: Two) -> None:
    hidden = [n for n in range(30) if await files.store.find(Conversation.at(f"u1-{n}", f"c u1-{n}")) is None]
    assert hidden
    await files.copy()
    store = Store(files.target.core)
    await store.sweep()
    rows = (await dump(files.target))["conversations"]
    assert not {(f"u1-{n}", f"c u1-{n}") for n in hidden} & set(rows)
    assert await store.find(message_of(f"u1-{hidden[0]}", BASE + (1_000 + hidden[0]) * 10).address) is None
