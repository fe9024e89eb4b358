"""Opening, migrating and closing; loops, threads, forks and cancelled calls."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver
from palaver import Batch, Entity, Expires, Expiry, Index, Key, Schema, Store, Unique
from palaver.blueprints.baller import SCHEMA as BALLER
from palaver.errors import AlreadyExists, ConfigError, NotProvisioned, PalaverError
from palaver.sync import SyncStore
from palaver.url import parse_url
from tests.store.conftest import Opener
from tests.store.world import CHAT, START, Team, User, conversation


def first_version(version: int = 1) -> Schema:
    class Thing(Entity, table="things"):
        id: str
        name: str = "-"
        key = Key("id")
        by_name = Index("name")

    return Schema("things", [Thing], version=version)


def second_version(version: int = 2) -> Schema:
    class Thing(Entity, table="things"):
        id: str
        name: str = "-"
        size: int = 7
        extra: str | None = None
        expires: Annotated[Expiry | None, Expires()] = None
        key = Key("id")
        by_size = Index("size", sort="name")
        by_extra = Unique("extra")

    return Schema("things", [Thing], version=version)


def thing(schema: Schema) -> Any:
    return schema.entities["Thing"].entity


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/things.db?sync=normal"


async def test_a_new_schema_is_applied_at_opening_and_old_records_read_with_defaults(opened: Opener, path: str) -> None:
    old = first_version()
    store = await opened(old, url=path)
    await store.create(thing(old)(id="a", name="n"))
    await store.aclose()

    new = second_version()
    store = await opened(new, url=path)

    found = await store.get(thing(new).at("a"))
    assert ("n", 7, None) == (found.name, found.size, found.extra)
    await store.patch(found, set={"extra": "x"})
    assert "a" == (await store.get(thing(new).by_extra("x"))).id
    await store.put(thing(new)(id="b", size=3))
    assert ["b"] == [each.id async for each in store.query(thing(new).by_size(3))]


async def test_what_only_adds_is_done_at_opening_and_nothing_is_left(opened: Opener, path: str) -> None:
    store = await opened(first_version(), url=path)
    await store.aclose()
    with pytest.raises(NotProvisioned, match="migrate"):
        await opened(second_version(), url=path, migrate=False)
    new = second_version()
    assert (await palaver.migration(path, schema=new)).automatic
    await opened(new, url=path)

    assert () == (await palaver.migration(path, schema=new)).actions


async def test_migrate_drops_what_was_named_and_nothing_else(opened: Opener, path: str) -> None:
    new = second_version()
    store = await opened(new, url=path)
    await store.create(thing(new)(id="a", extra="x"))
    await store.aclose()

    narrower = first_version(version=3)
    assert ("Thing.size", "Thing.extra", "Thing.expires") == (await palaver.migration(path, schema=narrower)).kept
    with pytest.raises(NotProvisioned, match=r"Thing\.other"):
        await palaver.migrate(path, schema=narrower, allow_data_loss=["Thing.other"])
    plan = await palaver.migrate(path, schema=narrower, allow_data_loss=["Thing.extra"])
    store = await opened(narrower, url=path)
    assert ("Thing.size", "Thing.expires") == plan.kept
    columns = {column.name for table in (await store.core.records.describe()).tables for column in table.columns if table.name == "things"}
    assert {"id", "name", "size", "expires"} == columns


async def test_an_older_program_refuses_newer_data_and_changes_nothing(opened: Opener, path: str) -> None:
    new = second_version()
    store = await opened(new, url=path)
    await store.create(thing(new)(id="a", extra="x"))
    before = await store.core.records.describe()
    await store.aclose()

    with pytest.raises(NotProvisioned, match="version 2"):
        await opened(first_version(), url=path)

    store = await opened(new, url=path)
    assert before.tables == (await store.core.records.describe()).tables


async def test_what_would_strand_stored_data_is_refused(opened: Opener, path: str) -> None:
    old = first_version()
    store = await opened(old, url=path)
    await store.create(thing(old)(id="a"))
    await store.aclose()

    def other_key() -> Schema:
        class Thing(Entity, table="things"):
            id: str
            name: str
            key = Key("id", sort="name")

        return Schema("things", [Thing], version=2)

    def other_type() -> Schema:
        class Thing(Entity, table="things"):
            id: str
            name: int = 0
            key = Key("id")

        return Schema("things", [Thing], version=2)

    def required() -> Schema:
        class Thing(Entity, table="things"):
            id: str
            name: str = ""
            owner: str
            key = Key("id")

        return Schema("things", [Thing], version=2)

    for schema, words in ((other_key(), "another key"), (other_type(), "stored as"), (required(), "new and required")):
        with pytest.raises(NotProvisioned, match=words):
            await opened(schema, url=path)


async def test_data_outlives_the_process(opened: Opener, path: str) -> None:
    store = await opened(url=path)
    user = await store.create(User(id="u", email="a"))
    await store.aclose()

    again = await opened(url=path)
    assert user == await again.get(User.by_email("a"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "no URL"),
        ("mysql://x", "No stack is called mysql. There are: dynamodb, memory"),
        ("postgre://x", "Did you mean postgresql"),
        ("redis://host/0", "is the cache of a stack"),
        ("bot.db?cache=none", "takes no options"),
        ("../bot.db?cache=redis://host/0", "takes no options"),
        ("sqlite:bot.db", "no slashes"),
        ("postgres:host/db", "no slashes"),
        (".", "names a folder"),
        ("/", "names a folder"),
        ("sqlite:///.", "names no file"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite:///", "names no file"),
        ("sqlite:///x.db?synch=full", "Did you mean sync"),
        ("sqlite:///x.db?sync=maybe", "full or normal"),
        ("memory:?size=1", "no option"),
        ("postgresql:///db", "needs a server"),
        ("postgresql://host", "needs a server"),
        ("postgresql://host/db?pol=3", "Did you mean pool"),
        ("postgresql://host/db?pool=0&blobs=memory:", "from 1 to"),
        ("postgresql://host/db?pooler=maybe&blobs=memory:", "one of auto"),
        ("dynamodb://?endpoint=http://127.0.0.1:1", "names no region"),
        ("dynamodb://eu-central-1?search=dynamodb://x", "no place for search"),
    ],
)
async def test_a_url_that_cannot_work_says_why(wrong: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PALAVER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        await palaver.open(wrong, schema=CHAT)
    assert [] == os.listdir(tmp_path)


def test_a_password_is_not_shown() -> None:
    parsed = parse_url("postgres://me:hidden@host:5432/db?schema=s&sslmode=require&blobs=s3://b/p%3Fsecret=hidden")
    assert ("postgresql", "db", "s") == (parsed.scheme, parsed.path, parsed.options["schema"])
    assert "postgresql://me:hidden@host:5432/db?sslmode=require" == parsed.address
    assert "hidden" not in repr(parsed)


@pytest.mark.parametrize("stack", ["postgresql", "dynamodb"])
async def test_a_schema_that_stores_more_than_records_needs_a_place_for_it(url: str) -> None:
    for option in ("blobs", "search"):
        short = re.sub(f"{option}=[^&]*&?", "", url)
        if short != url:
            with pytest.raises(ConfigError, match=f"needs the option {option}"):
                await palaver.open(short, schema=BALLER)


@pytest.mark.parametrize("stack", ["postgresql", "dynamodb"])
async def test_a_server_that_holds_nothing_is_not_filled_unasked(url: str) -> None:
    with pytest.raises(NotProvisioned, match="no tables"):
        await palaver.open(url, schema=CHAT, create=False)


async def test_a_database_that_is_not_to_be_made_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PalaverError):
        await palaver.open(f"sqlite:///{tmp_path}/none.db", schema=CHAT, create=False)


async def test_a_closed_store_refuses_every_verb_and_closes_twice(opened: Opener) -> None:
    store = await opened()
    await store.aclose()
    await store.aclose()

    async def every() -> list[Any]:
        return [each async for each in store.query(Team.key("t"))]

    for verb in (
        lambda: store.find(Team.at("t")),
        lambda: store.create(Team(id="t")),
        lambda: store.delete(Team.at("t")),
        lambda: store.write(Batch().delete(Team.at("t"))),
        lambda: store.page(Team.key("t")),
        lambda: store.page(Team.key("t"), cursor="x"),
        lambda: store.count(Team.key("t")),
        lambda: store.bulk([Team(id="t")]),
        lambda: store.search("messages"),
        lambda: store.sweep(),
        lambda: store.settle(),
        lambda: store.health(),
        lambda: store.explain(Team.key("t")),
        lambda: store.rebuild("search"),
        every,
    ):
        with pytest.raises(ConfigError, match="closed"):
            await verb()


def test_a_store_belongs_to_its_loop(url: str) -> None:
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(opened_once(url))

    async def elsewhere() -> None:
        with pytest.raises(ConfigError, match="another event loop"):
            await store.find(Team.at("t"))

    asyncio.run(elsewhere())
    loop.run_until_complete(store.aclose())
    loop.close()


async def opened_once(url: str) -> Store:
    return await palaver.open(url, schema=CHAT, maintain=False)


async def test_a_forked_child_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver.store.process_id", lambda: -1)

    with pytest.raises(ConfigError, match="forked"):
        await store.find(Team.at("t"))


async def test_a_cancelled_write_is_whole_or_not_there(store: Store) -> None:
    for n in range(30):
        batch = Batch().create(Team(id=f"a{n}")).create(Team(id=f"b{n}")).create(User(id=f"u{n}", email=f"{n}"))
        task = asyncio.create_task(store.write(batch))
        for _ in range(n % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.create(Team(id=f"after{n}"))

        found = [await store.find(Team.at(f"a{n}")), await store.find(Team.at(f"b{n}")), await store.find(User.by_email(f"{n}"))]
        assert 3 == sum(each is not None for each in found) or found == [None] * 3


def test_the_blocking_verbs_take_what_the_others_take() -> None:
    verbs = [name for name, verb in vars(palaver.Store).items() if inspect.iscoroutinefunction(verb) and not name.startswith("_")]
    assert {"get", "create", "search"} < set(verbs)
    for name in [*verbs, "for_tenant"]:
        if name != "aclose":
            ours, theirs = (inspect.signature(getattr(each, name)).parameters for each in (SyncStore, palaver.Store))
            assert ours == theirs, name
    assert inspect.signature(palaver.open_sync).parameters == inspect.signature(palaver.open).parameters


def test_the_typing_tests_hold_every_blocking_verb() -> None:
    text = (Path(__file__).parent.parent / "typing" / "test_store.py").read_text(encoding="utf-8")
    typed = text.partition("def the_blocking_store_keeps")[2]
    verbs = [name for name, verb in vars(SyncStore).items() if inspect.isfunction(verb) and not name.startswith("_")]
    assert len(verbs) > 15
    assert [] == [name for name in verbs if f"store.{name}(" not in typed]


def test_the_blocking_store_is_the_same_store_from_several_threads(url: str) -> None:
    with palaver.open_sync(url, schema=CHAT, maintain=False) as store:
        results: list[object] = []

        def work(n: int) -> None:
            try:
                results.append(store.create(Team(id="one", name=str(n))))
            except AlreadyExists as error:
                results.append(error)
            store.create(conversation(str(n), last_active=START))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 1 == sum(isinstance(result, Team) for result in results)
        assert 7 == sum(isinstance(result, AlreadyExists) for result in results)
        store.create(User(id="u", email="a"))
        assert "u" == store.get(User.by_email("a")).id
        assert 1 == store.count(Team.key("one"))
        assert ["one"] == [team.id for team in store.query(Team.key("one"))]
        for team in store.query(Team.key("one")):
            assert team.id == "one"
            break
        store.settle()
    with pytest.raises(ConfigError, match="closed"):
        store.find(Team.at("one"))
    store.close()


def test_who_asks_while_the_blocking_store_is_closed_is_told_so(tmp_path: Path) -> None:
    """Nobody waits for an answer of a loop that has ended."""
    for number in range(5):
        store = palaver.open_sync(f"sqlite:///{tmp_path}/{number}.db?sync=normal", schema=CHAT, maintain=False)
        store.create(Team(id="t"))
        ended: list[str] = []
        begun = threading.Barrier(7)

        def work(store: SyncStore = store, begun: threading.Barrier = begun, ended: list[str] = ended) -> None:
            begun.wait()
            try:
                while True:
                    store.get(Team.at("t"))
            except ConfigError as error:
                ended.append(error.message)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        begun.wait()
        store.get(Team.at("t"))
        closing = threading.Thread(target=store.close)
        closing.start()
        store.close()
        for thread in (*threads, closing):
            thread.join(30)
            assert not thread.is_alive()
        assert ["The store is closed."] * 6 == ended


def test_the_blocking_store_refuses_its_own_loop(url: str) -> None:
    with palaver.open_sync(url, schema=CHAT, maintain=False) as store:

        async def inside() -> None:
            with pytest.raises(ConfigError, match="own event loop"):
                store.find(Team.at("t"))

        store.run(inside())


def test_a_blocking_store_that_cannot_open_leaves_no_thread() -> None:
    with pytest.raises(ConfigError):
        palaver.open_sync("nothing://", schema=CHAT)
    assert "palaver-sync" not in [thread.name for thread in threading.enumerate()]


async def test_explain_shows_the_premises_and_guards(store: Store) -> None:
    shown = await store.explain(Batch().put(User(id="u", email="a")).create(Team(id="t")))

    assert "see users first, because policy depends on what is stored" in shown.steps
    assert any("unique:by_email" in step for step in shown.steps)
    assert any(step.startswith("put teams if absent") for step in shown.steps)
    assert await store.find(User.at("u")) is None


MISSING = """
import asyncio, sys

for name in [name for name in sys.modules if name.partition(".")[0] == "{package}"]:
    del sys.modules[name]
sys.modules["{package}"] = None

import palaver
from palaver import Entity, Key, Schema
from palaver.errors import ConfigError


class Note(Entity, table="notes"):
    id: str
    key = Key("id")


async def main() -> None:
    async with palaver.open("{url}", schema=Schema("notes", [Note])) as store:
        await store.cache.values("note").get("1")


try:
    asyncio.run(main())
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "extra", "where"),
    [
        ("asyncpg", "postgres", "postgresql://127.0.0.1:1/db"),
        ("httptools", "dynamodb", "dynamodb://eu-central-1/notes-"),
        ("hiredis", "redis", "memory:?cache=redis://127.0.0.1:1/0"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(package: str, extra: str, where: str) -> None:
    code = MISSING.format(package=package, url=where)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout.rstrip().endswith(f'needs the package {package}. Install it: pip install "palaver[{extra}]".')


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    """Workers that start together: one makes the tables, or adds what a new version has, and none is refused."""

    class Note(Entity, table="notes"):
        note_id: str
        text: str = "n"
        key = Key("note_id")
        by_text = Index("text", sort="note_id")

    class Later(Entity, table="later"):
        later_id: str
        key = Key("later_id")

    def opened(schema: Schema, at: str, number: int) -> None:
        with palaver.open_sync(at, schema=schema) as db:
            db.create(Note(note_id=f"{schema.version}/{number}"))

    for round_ in range(4):
        at = f"{tmp_path}/{round_}.db"
        for schema in (Schema("notes", [Note]), Schema("notes", [Note, Later], version=2)):
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(partial(opened, schema, at), range(8)))
        with palaver.open_sync(at, schema=schema) as db:
            assert all(db.find(Note.at(f"{version}/{number}")) for version in (1, 2) for number in range(8))
