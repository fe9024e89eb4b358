"""A dictionary says what the store must answer: unique sets, references, tokens and expiry, on every engine side by side.

The runs are short here; `make soak` makes them long.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import palaver
from palaver import Batch, Entity, Expires, Expiry, F, Index, Key, ManualClock, Query, Ref, Schema, Store, Unique
from palaver.errors import PalaverError
from tests.store.world import START

T = TypeVar("T")


class Room(Entity, table="rooms"):
    id: str
    name: str | None = None
    size: int = 0
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("id")
    by_name = Unique("name")


class Guest(Entity, table="guests"):
    room_id: str
    id: str
    mail: str | None = None
    seen: int = 0
    key = Key("room_id", sort="id")
    by_mail = Unique("mail")
    by_seen = Index(sort="seen", shards=2)
    room = Ref("room_id", to=Room, on_delete="cascade")


class Badge(Entity, table="badges"):
    room_id: str
    id: str
    key = Key("room_id", sort="id")
    room = Ref("room_id", to=Room)


SCHEMA = Schema("rooms", [Room, Guest, Badge])
ids = st.sampled_from(["a", "b", "c"])
names = st.sampled_from([None, "x", "y"])
tokens = st.sampled_from([None, None, None, "t1", "t2"])


@dataclass
class Model:
    """What is stored, as instances by key; nothing that has expired is left in it."""

    rooms: dict[str, Room] = field(default_factory=dict)
    guests: dict[tuple[str, str], Guest] = field(default_factory=dict)
    badges: dict[tuple[str, str], Badge] = field(default_factory=dict)
    tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def expire(self, now: datetime) -> None:
        self.tokens = {token: (request, ends) for token, (request, ends) in self.tokens.items() if ends > now}
        self.rooms = {id: room for id, room in self.rooms.items() if room.expires is None or room.expires > now}

    def takes(self, entity: Entity) -> str | None:
        """Return the code of what refuses an instance with its unique values and references, other than its own key."""
        if isinstance(entity, Room):
            taken = any(room.name == entity.name for room in self.rooms.values() if room.id != entity.id)
            return "duplicate" if entity.name is not None and taken else None
        assert isinstance(entity, Guest | Badge)
        others = [guest for key, guest in self.guests.items() if key != (entity.room_id, entity.id)]
        if isinstance(entity, Guest) and entity.mail is not None and any(guest.mail == entity.mail for guest in others):
            return "duplicate"
        return None if entity.room_id in self.rooms else "reference"

    def shelf(self, entity: Entity | type[Entity]) -> dict[Any, Any]:
        kind = entity if isinstance(entity, type) else type(entity)
        shelves: dict[Any, dict[Any, Any]] = {Room: self.rooms, Guest: self.guests, Badge: self.badges}
        return shelves[kind]

    def key(self, entity: Entity) -> Any:
        return entity.id if isinstance(entity, Room) else (entity.room_id, entity.id)  # type: ignore[attr-defined]


class Machine(RuleBasedStateMachine):
    """Every rule is done to the model and to each store; answers and contents are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(START)
        self.model = Model()
        self.stores: list[Store] = []

    @initialize()
    def open(self) -> None:
        for url in ("memory:", f"sqlite:///{Path(self.folder.name)}/model.db?sync=normal"):
            self.stores.append(self.loop.run_until_complete(self.opened(url)))

    async def opened(self, url: str) -> Store:
        return await palaver.open(url, schema=SCHEMA, clock=self.clock, maintain=False)

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.aclose())
        self.loop.close()
        self.folder.cleanup()

    def answers(self, ask: Callable[[Store], Coroutine[Any, Any, T]]) -> T | str:
        """Return what every store answers alike: a value, or the code of an error."""

        async def answer(store: Store) -> T | str:
            try:
                return await ask(store)
            except PalaverError as error:
                return error.code

        first, *others = [self.loop.run_until_complete(answer(store)) for store in self.stores]
        assert all(other == first for other in others), (first, others)
        return first

    def write(self, ask: Callable[[Store], Coroutine[Any, Any, Any]], refused: str | None, token: str | None, request: str) -> bool:
        """Write everywhere; return whether it was to be written. A token answers first."""
        if token is not None and token in self.model.tokens:
            expected = None if self.model.tokens[token][0] == request else "idempotency_mismatch"
            answer = self.answers(ask)
            assert expected == answer if expected else not isinstance(answer, str)
            return False
        answer = self.answers(ask)
        if refused is not None:
            assert refused == answer
            return False
        assert not isinstance(answer, str), answer
        if token is not None:
            self.model.tokens[token] = (request, self.clock.now() + timedelta(days=1))
        return True

    # --- rules ------------------------------------------------------------------------------------------------------

    def store_entity(self, entity: Entity, create: bool, token: str | None) -> None:
        shelf, key = self.model.shelf(entity), self.model.key(entity)
        found = "already_exists" if create and key in shelf else self.model.takes(entity)
        expires = isinstance(entity, Room) and entity.expires is not None and entity.expires <= self.clock.now()
        verb = (lambda store: store.create(entity, token=token)) if create else (lambda store: store.put(entity, token=token))
        replayed = token is not None and token in self.model.tokens
        written = self.write(verb, found, token, f"{create} {entity!r}")
        if isinstance(entity, Room) and key not in shelf and not replayed:
            # What is left of an expired room goes when its key is asked for, as in a sweep, also where the write is then refused.
            self.forget_children(entity.id)
        if written:
            shelf[key] = entity
            if expires:
                del shelf[key]

    def forget_children(self, id: str) -> None:
        """A room that is made anew inherits no guest; its badges, which only hold it back, stay."""
        self.model.guests = {key: guest for key, guest in self.model.guests.items() if key[0] != id}

    @rule(id=ids, name=names, days=st.sampled_from([None, None, 1, 3]), create=st.booleans(), token=tokens)
    def room(self, id: str, name: str | None, days: int | None, create: bool, token: str | None) -> None:
        ends = None if days is None else self.clock.now() + timedelta(days=days)
        self.store_entity(Room(id=id, name=name, expires=ends), create, token)

    @rule(room=ids, id=ids, mail=names, create=st.booleans(), token=tokens)
    def guest(self, room: str, id: str, mail: str | None, create: bool, token: str | None) -> None:
        self.store_entity(Guest(room_id=room, id=id, mail=mail), create, token)

    @rule(room=ids, id=ids)
    def badge(self, room: str, id: str) -> None:
        self.store_entity(Badge(room_id=room, id=id), False, None)

    @rule(id=ids, name=names, size=st.integers(0, 5), token=tokens)
    def patch_room(self, id: str, name: str | None, size: int, token: str | None) -> None:
        old = self.model.rooms.get(id)
        new = None if old is None else old.model_copy(update={"name": name, "size": old.size + size})
        refused = "condition_failed" if new is None else self.model.takes(new)
        patch = {"set": {"name": name}, "add": {"size": size}}
        if self.write(lambda store: store.patch(Room.at(id), token=token, **patch), refused, token, f"patch {id} {patch}"):  # type: ignore[arg-type]
            assert new is not None
            self.model.rooms[id] = new

    @rule(room=ids, id=ids, seen=st.integers(1, 3), least=st.integers(0, 4))
    def see_guest(self, room: str, id: str, seen: int, least: int) -> None:
        old = self.model.guests.get((room, id))
        refused = None if old is not None and old.seen >= least else "condition_failed"
        at = Guest.at(room, id)
        if self.write(lambda store: store.patch(at, add={"seen": seen}, when=F("seen") >= least), refused, None, ""):
            assert old is not None
            self.model.guests[room, id] = old.model_copy(update={"seen": old.seen + seen})

    @rule(id=ids, token=tokens)
    def delete_room(self, id: str, token: str | None) -> None:
        held = id in self.model.rooms and any(key[0] == id for key in self.model.badges)
        if self.write(lambda store: store.delete(Room.at(id), token=token), "reference" if held else None, token, f"delete {id}"):
            if self.model.rooms.pop(id, None) is not None:
                self.forget_children(id)
            self.sweep()

    async def swept(self, store: Store) -> None:
        await store.sweep()

    @rule(room=ids, id=ids, kind=st.sampled_from([Guest, Badge]))
    def delete_child(self, room: str, id: str, kind: type[Guest] | type[Badge]) -> None:
        self.write(lambda store: store.delete(kind.at(room, id)), None, None, "")
        self.model.shelf(kind).pop((room, id), None)

    @rule(room=ids, first=ids, second=ids, mail=names)
    def batch(self, room: str, first: str, second: str, mail: str | None) -> None:
        if first == second:
            return
        one, two = Guest(room_id=room, id=first, mail=mail), Guest(room_id=room, id=second)
        codes = ["already_exists" if (room, each.id) in self.model.guests else self.model.takes(each) for each in (one, two)]
        refused = "cancelled" if any(codes) else None
        if self.write(lambda store: store.write(Batch().create(one).create(two)), refused, None, ""):
            self.model.guests[room, first], self.model.guests[room, second] = one, two

    @rule(hours=st.sampled_from([1, 12, 25, 80]))
    def tick(self, hours: int) -> None:
        self.clock.advance(timedelta(hours=hours))
        self.model.expire(self.clock.now())

    @rule()
    def sweep(self) -> None:
        """What is swept was gone before; only the guests of expired rooms go with it."""
        self.answers(lambda store: self.swept(store))
        self.model.guests = {key: guest for key, guest in self.model.guests.items() if key[0] in self.model.rooms}

    # --- what must always be true -----------------------------------------------------------------------------------

    def listed(self, query: Query[Any]) -> Any:
        async def all_of(store: Store) -> list[Any]:
            return [each async for each in store.query(query)]

        return self.answers(all_of)

    @invariant()
    def records_are_those_of_the_model(self) -> None:
        if not self.stores:
            return
        for id in ("a", "b", "c"):
            assert self.model.rooms.get(id) == self.answers(lambda store, id=id: store.find(Room.at(id)))  # type: ignore[misc]
            guests = [self.model.guests[key] for key in sorted(self.model.guests) if key[0] == id]
            assert guests == self.listed(Guest.key(id))
            assert list(reversed(guests)) == self.listed(Guest.key(id).newest_first())
            assert len(guests) == self.answers(lambda store, id=id: store.count(Guest.key(id)))  # type: ignore[misc]
            assert [self.model.badges[key] for key in sorted(self.model.badges) if key[0] == id] == self.listed(Badge.key(id))

    @invariant()
    def indexes_and_unique_sets_agree_with_the_records(self) -> None:
        if not self.stores:
            return
        everybody = sorted(self.model.guests.values(), key=lambda guest: (guest.seen, guest.room_id, guest.id))
        assert everybody == self.listed(Guest.by_seen())
        for name in ("x", "y"):
            room = next((room for room in self.model.rooms.values() if room.name == name), None)
            guest = next((guest for guest in self.model.guests.values() if guest.mail == name), None)
            assert room == self.answers(lambda store, name=name: store.find(Room.by_name(name)))  # type: ignore[misc]
            assert guest == self.answers(lambda store, name=name: store.find(Guest.by_mail(name)))  # type: ignore[misc]


TestModel = Machine.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, derandomize="CI" in os.environ)


@pytest.mark.soak
def test_a_long_run_of_the_model_does_not_diverge() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=1_500, stateful_step_count=50, deadline=None))
