"""When a database remembers a key: with the first thing that is sealed with it, and never for being opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import pytest

from palaver import Batch, Schema, Secret, Store
from palaver.errors import ConfigError, Unavailable
from palaver.known_keys import KNOWN, known as known_ids
from palaver.lifecycle.resealing import rotate
from palaver.migrating import Migrator
from palaver.ops import Op, Put, WriteSet
from palaver.sealing import SealKey, new_key
from tests.evolve.cases import entity
from tests.sealing.app import CANARY, Bot, Named, channel
from tests.sealing.conftest import Opener

OURS, FOREIGN = new_key(), new_key()
Writes = Callable[[Store], Awaitable[Any]]


def name(key: str) -> str:
    return SealKey.parse(key).id.hex()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Configure the one key there is."""

    def given(key: str) -> None:
        monkeypatch.setenv("PALAVER_SEAL_KEYS", key)

    given(OURS)
    return given


async def known(store: Store) -> list[str]:
    return await known_ids(store.core.records)


async def _patch(store: Store) -> None:
    await store.create(Bot(bot_id="a"))
    assert [] == await known(store)
    await store.patch(Bot.at("a"), set={"secret": CANARY})


async def _patch_seen(store: Store) -> None:
    """A patch of an entity with history, which is written whole."""
    await store.create(Named(named_id="n", name="n", secret="s"))
    await store.patch(Named.at("n"), set={"secret": CANARY, "name": "m"})


async def _bulk(store: Store) -> None:
    await store.bulk([Bot(bot_id=str(number), secret=CANARY if number > 600 else None) for number in range(700)])


SEALING: dict[str, Writes] = {
    "create": lambda store: store.create(Bot(bot_id="a", secret=CANARY)),
    "put": lambda store: store.put(Bot(bot_id="a", secret=CANARY)),
    "patch": _patch,
    "patch what was seen": _patch_seen,
    "history": lambda store: store.create(channel()),
    "batch": lambda store: store.write(Batch().create(Bot(bot_id="a")).put(Bot(bot_id="b", other=CANARY)), token="t"),
    "bulk": _bulk,
    "bulk with history": lambda store: store.bulk([channel()]),
}


@pytest.mark.parametrize("how", SEALING)
async def test_a_key_is_remembered_before_anything_is_sealed_with_it(
    how: str, opened: Opener, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    engine = store.core.records
    write, load, sealed = engine.write, engine.load, []

    async def looked(found: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        # The id is in each sealed value, as bytes.
        if repr(bytes.fromhex(name(OURS)))[2:-1] in found:
            sealed.append(await known(store))
        return await go_on()

    async def writing(writes: WriteSet) -> Any:
        return await looked(repr(writes), lambda: write(writes))

    async def loading(table: str, records: Sequence[Any], *rest: Any) -> Any:
        return await looked(repr(records), lambda: load(table, records, *rest))

    monkeypatch.setattr(engine, "write", writing)
    monkeypatch.setattr(engine, "load", loading)

    await SEALING[how](store)

    assert sealed
    assert all(ids == [name(OURS)] for ids in sealed)


async def test_opening_with_a_foreign_key_and_writing_what_is_not_secret_demands_nothing(opened: Opener, url: str, key: Any) -> None:
    key(FOREIGN)
    store = await opened()
    await store.create(Bot(bot_id="a"))
    await store.put(Bot(bot_id="b", name="n"))
    await store.patch(Bot.at("a"), add={"runs": 1})
    await store.bulk([Bot(bot_id=str(number)) for number in range(9)])
    await store.delete(Bot.at("b"))
    await store.explain(Batch().create(Bot(bot_id="c", secret=CANARY)))
    assert [] == await known(store)
    assert () == (await rotate(store)).keys
    assert [] == await known(store)
    if url.startswith("memory:"):
        return
    await store.aclose()

    key(OURS)
    store = await opened()
    await store.patch(Bot.at("a"), set={"secret": CANARY})

    assert [name(OURS)] == await known(store)
    await store.aclose()
    key(FOREIGN)
    with pytest.raises(ConfigError, match=f"sealed with key {name(OURS)}, which is not here"):
        await opened()


async def test_a_key_that_could_not_be_noted_seals_nothing(opened: Opener, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened()
    engine = store.core.records
    write = engine.write

    async def away(writes: WriteSet) -> Any:
        if writes.ops[0].at == KNOWN:
            raise Unavailable("The database does not answer.")
        return await write(writes)

    monkeypatch.setattr(engine, "write", away)
    for sealing in (store.create(Bot(bot_id="a", secret=CANARY)), store.bulk([Bot(bot_id="a", secret=CANARY)])):
        with pytest.raises(Unavailable):
            await sealing
    assert await store.find(Bot.at("a")) is None
    monkeypatch.undo()
    key(OURS)
    await store.create(Bot(bot_id="a", secret=CANARY))
    assert [name(OURS)] == await known(store)


@pytest.mark.parametrize("stack", ["postgresql", "dynamodb"], indirect=True)
async def test_of_two_processes_with_two_keys_the_second_to_seal_is_refused(opened: Opener, key: Any) -> None:
    ours = await opened()
    key(FOREIGN)
    theirs = await opened()
    await ours.create(Bot(bot_id="a", secret=CANARY))

    for sealing in (theirs.create(Bot(bot_id="b", secret=CANARY)), theirs.bulk([Bot(bot_id="b", secret=CANARY)])):
        with pytest.raises(ConfigError, match=f"sealed with key {name(OURS)}, which is not here"):
            await sealing
    await theirs.create(Bot(bot_id="c"))

    assert ["a", "c"] == sorted([bot.bot_id for at in "abc" if (bot := await ours.find(Bot.at(at))) is not None])
    assert [name(OURS)] == await known(ours)


async def test_many_first_writers_remember_it_once(opened: Opener, key: Any) -> None:
    import asyncio

    store = await opened()
    await asyncio.gather(*(store.create(Bot(bot_id=str(number), secret=CANARY)) for number in range(20)))

    assert [name(OURS)] == await known(store)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"word": str}, {"word": Annotated[str, Secret()]}),
        ({}, {"word": (Annotated[str, Secret()], CANARY)}),
    ],
    ids=["sealed", "filled"],
)
async def test_a_migration_that_seals_remembers_its_key_first(
    before: dict[str, Any], after: dict[str, Any], opened: Opener, url: str, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palaver.plan import Planner
    from palaver.sealing import sealer_of

    old, new = Schema("words", [entity("Thing", before)]), Schema("words", [entity("Thing", after)])
    store = await opened(old)
    thing: Any = old.entities["Thing"].entity
    await store.bulk([thing(id=str(number), **dict.fromkeys(before, CANARY)) for number in range(3)])
    planner = Planner(new, sealer_of([OURS]))
    engine = store.core.records
    write, seen = engine.write, []

    async def writing(writes: WriteSet) -> Any:
        if any(_seals(op) for op in writes.ops):
            seen.append(await known(store))
        return await write(writes)

    def _seals(op: Op) -> bool:
        return op.at.table == planner.schema.entities["Thing"].table.name and not isinstance(op, Put)

    monkeypatch.setattr(engine, "write", writing)
    migrator = Migrator(planner, engine, store.clock)
    await migrator.apply(await migrator.pending())

    assert seen
    assert all(ids == [name(OURS)] for ids in seen)
