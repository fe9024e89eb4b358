"""How far a copy has come, kept in its target, and the right of one process to go on with it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from palaver.clock import to_ms
from palaver.errors import Conflict, Fenced
from palaver.lifecycle.copy_ends import INTO, End
from palaver.ops import Delete, Guard, Origin, Put, Unchanged, WriteSet, Written, revision_of
from palaver.system import key_from_plain, plain_key
from palaver.values import KeyPart

LEASE_MS = 20_000
SAVE_EVERY_S = 0.25
RENEW_EVERY_S = 5.0
ATTEMPTS = 5

State = Literal["copying", "following", "finished"]


@dataclass
class Segment:
    """A part of a table: where its copying goes on, whether it has ended, how many records it has seen."""

    after: tuple[KeyPart, ...] | None = None
    done: bool = False
    records: int = 0


@dataclass
class Progress:
    """The record of one copy; `save` writes it where no other process took the copy over."""

    target: End
    source: str
    state: State = "copying"
    schema: str = ""
    into_existing: bool = False
    begins: int = 0
    head: int = 0
    seen: int = 0
    missed: int = 0
    searchable: bool = False
    target_head: int = 0
    began_ms: int = 0
    heard_ms: int = 0
    ahead: int = 0
    newest: int = 0
    newest_us: int = 0
    promoted_ms: int = 0
    erased: bool = False
    tables: dict[str, list[Segment]] = field(default_factory=dict)
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    resumed: bool = False
    _who: str = field(default_factory=lambda: secrets.token_hex(8))
    _revision: int | None = None
    _saved: float = 0.0
    _until: float = 0.0
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- reading and writing ----------------------------------------------------------------------------------------

    @classmethod
    async def find(cls, target: End) -> Progress | None:
        """Return what a target knows of a copy into it."""
        record = (await target.ask(lambda: target.records.get((INTO,))))[0]
        if record is None:
            return None
        body: Any = record["body"]
        tables = {
            name: [Segment(None if after is None else key_from_plain(after), done, records) for after, done, records in segments]
            for name, segments in body["tables"].items()
        }
        plain = {name: body[name] for name in _PLAIN if name in body}
        found = cls(target, tables=tables, **plain)
        found._revision, found.resumed = revision_of(record), True
        if found._is_held(body["holder"]):
            raise Conflict("Another process is copying into this target.", hint="Wait for it to end; a dead one is forgotten after 20 s.")
        return found

    def replaces(self, other: Progress) -> None:
        """Take the place of a copy that has ended."""
        self._revision = other._revision

    def _is_held(self, holder: Mapping[str, Any] | None) -> bool:
        if holder is None or holder["until_ms"] <= to_ms(self.target.core.clock.now()):
            return False
        return not (holder["host"] == socket.gethostname() and not _lives(holder["pid"]))

    async def save(self) -> None:
        """Write how far it has come and renew the lease; raise Fenced where another process has the copy."""
        async with self._saving:
            until_ms = to_ms(self.target.core.clock.now()) + LEASE_MS
            await self._store({"host": socket.gethostname(), "pid": os.getpid(), "until_ms": until_ms})

    async def release(self) -> None:
        """Write how far it has come, and let any process go on."""
        async with self._saving:
            await self._store(None)

    async def forget(self) -> None:
        async with self._saving:
            await self.target.ask(lambda: self.target.records.write(WriteSet((Delete(INTO),), self.target.core.now_us())))

    async def save_now_and_then(self) -> None:
        if asyncio.get_running_loop().time() - self._saved > SAVE_EVERY_S and not self._saving.locked():
            await self.save()

    def check(self) -> None:
        """Refuse to write where the lease may have been taken over while this process slept."""
        if asyncio.get_running_loop().time() > self._until:
            raise Fenced("This process was away for so long that another may have taken over the copy.", hint="Run the copy again.")

    async def _store(self, holder: Mapping[str, Any] | None) -> None:
        began = asyncio.get_running_loop().time()
        # Not in line with the data: a lease that waits behind it would run out.
        self._revision = await self.target.pace.patiently(partial(self._put, self._body(holder)))
        self._saved, self._until = began, began + LEASE_MS / 1000 * 0.75

    async def _put(self, body: Any) -> int | None:
        for _ in range(ATTEMPTS):
            guard = Guard(Unchanged(self._revision), Origin(0, "copy"))
            put = Put(INTO, {"scope": INTO.key[0], "name": INTO.key[1], "body": body}, (guard,))
            result = await self.target.records.write(WriteSet((put,), self.target.core.now_us()))
            if isinstance(result, Written):
                return result.revisions[0]
            stored = (await self.target.records.get((INTO,)))[0]
            mine: Any = stored["body"] if stored else {}
            if stored is None or mine["who"] != self._who:
                break
            # A write of this object that was cancelled, or whose answer was lost, was done all the same.
            self._revision = revision_of(stored)
        raise Fenced("Another process took over this copy.", hint="Run the copy again.")

    def _body(self, holder: Mapping[str, Any] | None) -> Any:
        tables = {
            name: [[None if each.after is None else plain_key(each.after), each.done, each.records] for each in segments]
            for name, segments in self.tables.items()
        }
        return {**{name: getattr(self, name) for name in _PLAIN}, "tables": tables, "holder": holder, "who": self._who}

    # --- holding ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the copy for this process: the lease is renewed in the background, and given back at the end."""
        await self.save()
        owner = asyncio.current_task()
        lost: list[BaseException] = []

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                try:
                    await self.save()
                except Exception as error:
                    if asyncio.get_running_loop().time() < self._until and not isinstance(error, Fenced):
                        continue
                    lost.append(error)
                    assert owner is not None
                    owner.cancel()
                    return

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if lost and owner is not None:
                owner.uncancel()
                raise lost[0] from None
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            if not lost:
                await self._let_go()

    async def _let_go(self) -> None:
        try:
            await self.release()
        except Fenced:
            # Whoever has it now keeps how far it has come.
            return

    # --- the first pass ---------------------------------------------------------------------------------------------

    def segments(self, table: str, count: int) -> Sequence[Segment]:
        """Return the segments of a table, as many as it was begun with."""
        if table not in self.tables:
            self.tables[table] = [Segment() for _ in range(count)]
        return self.tables[table]


_PLAIN = (
    *("source", "state", "schema", "into_existing", "nonce", "searchable", "target_head"),
    *("begins", "head", "seen", "missed", "began_ms", "heard_ms", "ahead", "newest", "newest_us", "promoted_ms", "erased"),
)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
