"""What the tests of following and of the entity cache declare: people, with everything that may go wrong in a cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated
from urllib.parse import quote

from pydantic import JsonValue

from palaver import Blob, Entity, Expires, Expiry, Key, Personal, Ref, Schema, Subject, Tenant, Unique
from palaver.ops import Change


class User(Entity, table="users"):
    user_id: Annotated[str, Subject()]
    email: str | None = None
    name: Annotated[str, Personal()] = ""
    number: int = 0
    profile: Annotated[dict[str, JsonValue] | None, Blob("{user_id}/profile.json", inline=16)] = None
    expires: Annotated[Expiry | None, Expires()] = None
    key = Key("user_id")
    by_email = Unique("email")


class Device(Entity, table="devices"):
    user_id: Annotated[str, Subject()]
    device_id: str
    key = Key("user_id", sort="device_id")
    user = Ref("user_id", to=User, on_delete="cascade")


class Plain(Entity, table="plain"):
    id: str
    number: int = 0
    key = Key("id")


PEOPLE = Schema("people", [User, Device, Plain])


class Note(Entity, table="notes"):
    tenant: Annotated[str, Tenant()]
    id: str
    text: str = ""
    key = Key("id")


NOTES = Schema("notes", [Note])


def with_cache(url: str, cache: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}cache={quote(cache, safe='')}"


class Hearing:
    """A listener that notes what it is told, and fails when told to."""

    def __init__(self, *entities: type[Entity]) -> None:
        self.entities: Sequence[type[Entity]] = entities or (User,)
        self.told: list[Change] = []
        self.calls: list[int] = []
        self.misses = 0
        self.failing: Exception | None = None
        self.failed = 0

    async def changed(self, changes: Sequence[Change]) -> None:
        self._fail()
        self.calls.append(len(changes))
        self.told += changes

    async def missed(self) -> None:
        self._fail()
        self.misses += 1

    def _fail(self) -> None:
        if self.failing is not None:
            self.failed += 1
            raise self.failing

    def heard(self) -> set[str]:
        return {str(change.key[-1]) for change in self.told}


async def eventually(holds: Callable[[], object], patience: float = 20.0) -> None:
    """Wait until something holds; the patience is for slow machines, not part of what is tested."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.005)
