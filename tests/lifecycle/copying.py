"""What tests of copying share: two ends and what opens them, something of everything stored, a dump that tells any difference."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from palaver.batch import Batch
from palaver.lifecycle.copy import Copied, Copy
from palaver.lifecycle.copy_ends import End, copied, exists_as_declared, pages
from palaver.lifecycle.copy_sums import encoded
from palaver.lifecycle.copy_verify import verify
from palaver.ops import position
from palaver.schema import Schema
from palaver.store import Store
from tests import servers
from tests.lifecycle.app import SCHEMA, Conversation, Feedback, Message, Note, User

BASE = 201_000_000_000_000_000
KINDS = [("memory", "sqlite"), ("sqlite", "memory"), ("sqlite", "postgres"), ("postgres", "dynamodb"), ("dynamodb", "sqlite")]


@asynccontextmanager
async def opened(url: str, schema: Schema = SCHEMA, projections: Sequence[Any] = (), **options: Any) -> AsyncIterator[End]:
    """Open an end that exists as declared."""
    async with End.open(url, schema, projections=projections, **options) as end:
        await exists_as_declared(end, provision=True, what="target")
        yield end


async def dump(end: End) -> dict[str, dict[Any, bytes]]:
    """Return everything of an end: each record in its canonical form, each object."""
    found: dict[str, dict[Any, bytes]] = {}
    for name, table in end.tables.items():
        records = [record async for page in pages(end, name) for record in copied(name, page)]
        found[name] = {position(table, None, record): encoded(record) for record in records}
        assert len(records) == len(found[name]), name
    found["objects"] = {info.key: await end.core.blobs.get(info.key) async for info in end.core.blobs.list()}
    return found


async def fill(store: Store, count: int = 30, seed: int = 1) -> None:
    """Write something of everything: images, claims, tokens, objects, marks and jobs that wait, expired records."""
    rng = random.Random(seed)
    people = [(f"u{seed}-{n}", rng.random()) for n in range(count)]
    for start in range(0, len(people), 16):
        await asyncio.gather(*(_person(store, user, chance) for user, chance in people[start : start + 16]))


async def _person(store: Store, user: str, chance: float) -> None:
    number = int(user.rpartition("-")[2]) + 1_000 * int(user[1 : user.index("-")])
    await store.create(
        User(
            user_id=user,
            email=f"{user}@example.org",
            name="ÿ\U0001f600",
            balance=Decimal("1.50"),
            avatar=b"\0\xff",
            tags=frozenset({"a", "b"}),
        ),
        token=f"token {user}",
    )
    conversation = Conversation(user_id=user, conversation_id=f"c {user}", title="about dortmund")
    await store.create(conversation)
    for n in range(4):
        await store.create(message_of(user, BASE + number * 10 + n, {"n": n, "text": "x" * (10 if n % 2 else 500), "f": 0.5}))
    await store.write(
        Batch().create(Feedback(message_id=str(BASE + number * 10), user_id=user)).create(Note(note_id=user, user_id=user, text="n"))
    )
    if chance < 0.3:
        await store.patch(User.at(user), set={"email": f"new-{user}@example.org"}, add={"balance": Decimal("0.25")})
    elif chance < 0.5:
        await store.delete(User.at(user))
    elif chance < 0.7:
        # The conversation is marked and a job waits: nobody runs the cascade here.
        await store.delete(conversation)


def message_of(user: str, number: int, context: Any = None) -> Message:
    return Message(
        conversation_id=f"c {user}",
        message_id=str(number),
        owner_id=user,
        user_id=user,
        content=f"message {number} from dortmund",
        context=context,
    )


def sqlite(folder: Path, name: str) -> str:
    return f"sqlite:///{folder}/{name}.db?sync=normal"


def url_of(kind: str, folder: Path, name: str) -> str:
    """Return the URL of an empty stack of a kind; its server is started if need be."""
    beside = f"blobs=file:{folder}/{name}.blobs"
    match kind:
        case "memory":
            return f"memory:?{beside}"
        case "sqlite":
            return sqlite(folder, name)
        case "postgres":
            server = servers.postgres18()
            return f"{server.url(server.create_database())}?{beside}"
        case "dynamodb":
            address = servers.ministack().endpoint.url
            return f"dynamodb://eu-central-1/{secrets.token_hex(4)}-?endpoint={address}&{beside}&search=sqlite:///{folder}/{name}-search.db"
    raise ValueError(kind)


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
