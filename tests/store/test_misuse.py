"""Values of another kind than a verb takes: told by their type, with what to give instead, and never by an error from deep inside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from palaver import Batch, F, Store, open_sync
from palaver.errors import PalaverError, Validation
from tests.store.world import CHAT, Team, User

SECRET = "s3cret"
Verb = Callable[[Store, Any], Awaitable[object]]


async def queried(store: Store, given: Any) -> None:
    async for _ in store.query(given):
        raise AssertionError


async def streamed(store: Store, given: Any) -> None:
    async for _ in store.stream(given):
        raise AssertionError


def values() -> dict[str, Any]:
    """Return values people give, each with a text that no error may show."""
    return {
        "text": SECRET,
        "None": None,
        "number": 1,
        "class": Team,
        "list": [Team(id=SECRET)],
        "dict": {"id": SECRET},
        "record": Team(id=SECRET),
        "address": Team.at(SECRET),
        "unique": User.by_email(SECRET),
        "query": Team.key(SECRET),
        "bound": Team.key,
        "batch": Batch(),
        "condition": F("id") == SECRET,
    }


VERBS: dict[str, tuple[Verb, set[str]]] = {
    "get": (lambda store, given: store.get(given), {"address", "unique"}),
    "find": (lambda store, given: store.find(given), {"address", "unique"}),
    "query": (queried, {"query"}),
    "page": (lambda store, given: store.page(given), {"query"}),
    "count": (lambda store, given: store.count(given), {"query"}),
    "explain": (lambda store, given: store.explain(given), {"query", "batch"}),
    "stream": (streamed, set()),
    "create": (lambda store, given: store.create(given), {"record"}),
    "put": (lambda store, given: store.put(given), {"record"}),
    "delete": (lambda store, given: store.delete(given), {"record", "address"}),
    "patch": (lambda store, given: store.patch(given, set={"name": "x"}), {"record", "address"}),
    "check": (lambda store, given: store.write(Batch().check(given)), {"record", "address"}),
    "write": (lambda store, given: store.write(given), {"batch"}),
    "bulk": (lambda store, given: store.bulk(given), {"list", "batch"}),
    "bulk of one": (lambda store, given: store.bulk([given]), {"record"}),
    "set": (lambda store, given: store.patch(Team.at("t"), set=given), {"dict", "None"}),
    "add": (lambda store, given: store.patch(Team.at("t"), add=given), {"dict", "None"}),
    "remove": (lambda store, given: store.patch(Team.at("t"), remove=given), {"text", "None", "dict", "batch"}),
    "a path": (lambda store, given: store.patch(Team.at("t"), remove=[given]), {"text"}),
    "search": (lambda store, given: store.search(given, "x"), {"text"}),
    "settle": (lambda store, given: store.settle(given), {"number"}),
    "health": (lambda store, given: store.health(given), {"number"}),
    "sweep": (lambda store, given: store.sweep(limit=given), {"number", "None"}),
    "rebuild": (lambda store, given: store.rebuild(given), {"text"}),
}


@pytest.fixture(params=["memory"])
def stack(request: pytest.FixtureRequest) -> str:
    """What is refused before an engine is asked is refused alike on each."""
    return str(request.param)


@pytest.mark.parametrize("verb", VERBS)
async def test_what_a_verb_does_not_take_is_named_by_its_type(store: Store, verb: str) -> None:
    for name, given in values().items():
        if name in VERBS[verb][1]:
            continue
        with pytest.raises(Validation) as refused:
            await VERBS[verb][0](store, given)
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("verb", VERBS)
async def test_what_a_verb_takes_is_not_refused_as_another_kind(store: Store, verb: str) -> None:
    await store.create(Team(id="t"))
    for name in VERBS[verb][1]:
        (told,) = await asyncio.gather(VERBS[verb][0](store, values()[name]), return_exceptions=True)
        assert not isinstance(told, Exception) or (isinstance(told, PalaverError) and "is needed here" not in str(told))


async def test_the_type_and_what_to_give_instead_are_said(store: Store) -> None:
    with pytest.raises(Validation, match=r"the address of one record, not Query\. Write Message\.at\(…\)"):
        await store.get(Team.key("t"))  # type: ignore[arg-type]
    with pytest.raises(Validation, match=r"a query, not the class Team\. Write Message\.key\(…\)"):
        await store.count(Team)  # type: ignore[arg-type]
    with pytest.raises(Validation, match=r"a record, not list\. .*store\.bulk\(\)"):
        await store.create([Team(id="t")])  # type: ignore[type-var]


def test_the_blocking_store_says_the_same() -> None:
    with open_sync("memory:", schema=CHAT) as store, pytest.raises(Validation, match="the address of one record, not str"):
        store.get("t")  # type: ignore[arg-type]


def test_a_batch_is_joined_with_a_batch_only() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Batch() + None  # type: ignore[operator]
