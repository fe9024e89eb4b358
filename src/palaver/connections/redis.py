"""A Redis server as capabilities use it: commands of concurrent tasks share writes, failures have names, and a server that
is away is noticed once and not by every caller.

Chosen by measurement (docs/cache.md): hiredis parses, everything else of a client library costs more than Redis itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hiredis

from palaver.connections.redis_errors import translate
from palaver.connections.redis_options import Place, RedisOptions
from palaver.connections.redis_wire import ErrorReply, Lost, Wire
from palaver.errors import ConfigError, OutcomeUnknown, PalaverError, ReadOnly, Unauthenticated, Unavailable

Breaker = Literal["closed", "half-open", "open"]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_SENTINELS = "Write redis+sentinel://host1,host2/name?sentinel_password=…, and sentinel_user= where they know users."
_ASKING = hiredis.pack_command(("ASKING",))


def encode(*parts: bytes | str | int) -> bytes:
    """Return a command as it travels."""
    return hiredis.pack_command(parts)  # type: ignore[arg-type, no-any-return]


def encoded_part(part: bytes) -> bytes:
    """Return one argument as it travels."""
    return b"$%d\r\n%b\r\n" % (len(part), part)


class Script:
    """A Lua script, known to the server by its hash after the first connection."""

    __slots__ = ("_evalsha", "name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()
        self._evalsha = encoded_part(b"EVALSHA") + encoded_part(self.sha)

    def call(self, keys: Sequence[bytes], arguments: bytes, count: int) -> bytes:
        """Return the command: `arguments` are `count` encoded parts."""
        if len(keys) == 1:
            return b"%b%d\r\n%b\r\n%b" % (self.head(count), len(keys[0]), keys[0], arguments)
        packed = b"".join(map(encoded_part, keys))
        return b"*%d\r\n%b%b%b%b" % (3 + len(keys) + count, self._evalsha, encoded_part(b"%d" % len(keys)), packed, arguments)

    def head(self, count: int) -> bytes:
        """Return how a call with one key and `count` arguments begins; the key's length follows."""
        return b"*%d\r\n%b$1\r\n1\r\n$" % (4 + count, self._evalsha)

    def in_full(self, command: bytes) -> bytes:
        """Return the same call with the text in place of the hash."""
        return command.replace(self._evalsha, encoded_part(b"EVAL") + encoded_part(self.text), 1)


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """How a client stands with its server. `error` is the code of the last failure to connect, empty while connected.

    `made` counts the connections made so far.
    """

    breaker: Breaker
    connections: int
    inflight: int
    error: str
    made: int = 0


class RedisClient:
    """The connections of one event loop to one server. Connects at the first call and, from then on, again by itself.

    While the server is away calls fail at once (`breaker` is then not "closed"); one task tries to connect, with growing,
    random pauses. Raises Unavailable for what was not sent or only read, OutcomeUnknown for a write whose reply was lost,
    Throttled over the bound of commands in flight, and what `redis_errors` makes of error replies.
    """

    def __init__(
        self,
        options: RedisOptions,
        *,
        scripts: Iterable[Script] = (),
        setup: Sequence[bytes] = (),
        on_push: Callable[[list[Any]], None] | None = None,
        on_change: Callable[[bool], None] | None = None,
        heartbeat: bool = False,
    ) -> None:
        """`setup` are commands every new connection begins with; `on_change` hears of the first connection made and the last lost.

        `heartbeat` is for connections that listen: a server that fell silent is noticed although nothing is asked.
        """
        self.options = options
        self.breaker: Breaker = "closed"
        self._hello = [*_greeting(options), *(encode("SCRIPT", "LOAD", script.text) for script in scripts), *setup]
        self._on_push, self._on_change, self._heartbeat = on_push, on_change, heartbeat
        self._wires: list[Wire] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._first_attempt: asyncio.Future[None] | None = None
        self._error: PalaverError | None = None
        self._closed = self._left = False
        self._leave_again = 0.0
        self._turn = -1
        self.made = 0

    @property
    def health(self) -> RedisHealth:
        waiting = sum(len(wire.waiting) for wire in self._wires)
        return RedisHealth(self.breaker, len(self._wires), waiting, self._error.code if self._error else "", self.made)

    async def read(self, command: bytes) -> Any:
        """Send what changes nothing, or may happen twice: a lost reply is asked for again, once."""
        for _ in range(2):
            wire = self._pick() or await self._connected()
            try:
                return await wire.send(command)
            except ErrorReply as reply:
                raise self._told(reply, wire) from None
            except Lost:
                continue
        raise Unavailable("The connection to Redis ended before the reply, twice.", engine="redis")

    async def write(self, command: bytes) -> Any:
        """Send what must not happen twice."""
        for _ in range(2):
            wire = self._pick() or await self._connected()
            try:
                return await wire.send(command)
            except ErrorReply as reply:
                raise self._told(reply, wire) from None
            except Lost as lost:
                if lost.sent:
                    raise OutcomeUnknown("The connection to Redis ended after the command was sent.", engine="redis") from None
        raise Unavailable("The connection to Redis ended before the command was sent.", engine="redis")

    def run(self, script: Script, keys: Sequence[bytes], arguments: bytes, count: int, *, again: bool = False) -> Coroutine[Any, Any, Any]:
        """Run a script; `again`: a lost reply may be asked for again, because running it twice is running it once."""
        return self.run_made(script, script.call(keys, arguments, count), again=again)

    async def run_made(self, script: Script, command: bytes, *, again: bool = False) -> Any:
        """Do the same with the call as `Script.call` makes it."""
        for _ in range(2):
            wire = self._pick() or await self._connected()
            try:
                return await wire.send(command)
            except ErrorReply as reply:
                if not reply.text.startswith("NOSCRIPT"):
                    raise self._told(reply, wire) from None
            except Lost as lost:
                if lost.sent and not again:
                    raise OutcomeUnknown("The connection to Redis ended after a script was sent.", engine="redis") from None
                continue
            # Somebody emptied the server's scripts; the text brings this one back.
            return await (self.read if again else self.write)(script.in_full(command))
        raise Unavailable("The connection to Redis ended before a script was run.", engine="redis")

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[bytes], bytes, int]], *, again: bool = False) -> list[Any]:
        """Run a script several times in one write; raises the first error when every call has its answer."""
        if not calls:
            return []
        wire = self._pick() or await self._connected()
        wire.check_room(len(calls))
        futures = [wire.send(script.call(*call)) for call in calls]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        answers: list[Any] = []
        failed: BaseException | None = None
        for reply, call in zip(replies, calls, strict=True):
            try:
                answers.append(await self._settled(script, call, reply, again, wire))
            except PalaverError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return answers

    async def _settled(self, script: Script, call: tuple[Sequence[bytes], bytes, int], reply: Any, again: bool, wire: Wire) -> Any:
        """Return a reply, or do once more what was certainly not done, or may be done twice."""
        match reply:
            case ErrorReply() if not reply.text.startswith("NOSCRIPT"):
                raise self._told(reply, wire) from None
            case Lost() if reply.sent and not again:
                raise OutcomeUnknown("The connection to Redis ended after a script was sent.", engine="redis") from None
            case BaseException():
                return await self.run(script, *call, again=again)
        return reply

    async def tell(self, command: bytes) -> None:
        """Send what is answered by pushes."""
        (self._pick() or await self._connected()).tell(command)

    def tell_now(self, command: bytes) -> None:
        """Do the same on the connection there is; without one nothing is sent."""
        if wire := self._pick():
            wire.tell(command)

    async def read_each(self, commands: Sequence[bytes]) -> list[Any]:
        """Send several reads in one write."""
        if not commands:
            return []
        wire = self._pick() or await self._connected()
        wire.check_room(len(commands))
        replies = await asyncio.gather(*[wire.send(command) for command in commands], return_exceptions=True)
        answers: list[Any] = []
        for reply, command in zip(replies, commands, strict=True):
            if isinstance(reply, ErrorReply):
                raise translate(reply.text) from None
            answers.append(await self.read(command) if isinstance(reply, BaseException) else reply)
        return answers

    def get_many(self, keys: Sequence[bytes]) -> Coroutine[Any, Any, list[Any]]:
        """Return what is stored under several keys."""
        return self.read(encode("MGET", *keys))

    async def ask(self, command: bytes) -> Any:
        """Send a command to a node of a cluster that is just being given its slot; what becomes of a lost one is not known."""
        wire = self._pick() or await self._connected()
        wire.send(_ASKING).add_done_callback(_looked_at)
        try:
            return await wire.send(command)
        except ErrorReply as reply:
            raise self._told(reply, wire) from None
        except Lost:
            raise OutcomeUnknown("The connection to Redis ended after the command was sent.", engine="redis") from None

    def leave(self) -> None:
        """Connect no more, and end each connection when everything that waits on it has its reply."""
        self._left = True
        if self._connecting is not None:
            self._connecting.cancel()
        for wire in list(self._wires):
            wire.retire()

    async def aclose(self) -> None:
        """End the connections; who still waits for a reply gets the same error as when the server ends them."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for wire in list(self._wires):
            wire.close()

    # --- connecting -----------------------------------------------------------------------------------------------------

    def _pick(self) -> Wire | None:
        wires = self._wires
        if not wires:
            return None
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigError("A Redis client belongs to the event loop that used it first.", hint="Open one per event loop.")
        return wires[0] if len(wires) == 1 else min(wires, key=_load)

    async def _connected(self) -> Wire:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ConfigError("The Redis client is closed.")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigError("A Redis client belongs to the event loop that used it first.", hint="Open one per event loop.")
        if self.breaker == "closed" and not self._left:
            self._connect()
            assert self._first_attempt is not None
            await asyncio.shield(self._first_attempt)
        if wire := self._pick():
            return wire
        raise self._refusal()

    def _told(self, reply: ErrorReply, wire: Wire) -> PalaverError:
        """Return the error of a reply. A server that became a replica is left, once a second: its name may lead to the new primary."""
        error = translate(reply.text)
        replica = isinstance(error, ReadOnly) and "MISCONF" not in reply.text
        if replica and self._loop is not None and wire in self._wires and self._loop.time() >= self._leave_again:
            self._leave_again = self._loop.time() + _LONGEST_PAUSE_S
            self._wires.remove(wire)
            wire.retire()
            self._connect()
        return error

    def _refusal(self) -> PalaverError:
        error = self._error or Unavailable("The connection to Redis was closed.", engine="redis")
        return type(error)(error.message, hint=error.hint, **error.context)

    def _connect(self) -> None:
        assert self._loop is not None
        if self._connecting is None or self._connecting.done():
            self._first_attempt = self._loop.create_future()
            self._connecting = self._loop.create_task(self._fill(), name="palaver-redis-connect")

    async def _fill(self) -> None:
        """Connect until there are as many connections as asked for, however long it takes."""
        pause = _FIRST_PAUSE_S
        assert self._first_attempt is not None
        try:
            while len(self._wires) < self.options.pool:
                try:
                    self._join(await self._dial())
                    pause = _FIRST_PAUSE_S
                except PalaverError as error:
                    self._error = error
                    if not self._wires:
                        self.breaker = "open"
                    _settle(self._first_attempt)
                    await asyncio.sleep(random.uniform(pause / 2, pause))
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
                    if not self._wires:
                        self.breaker = "half-open"
        finally:
            _settle(self._first_attempt)

    def _join(self, wire: Wire) -> None:
        self._wires.append(wire)
        self.made += 1
        self.breaker, self._error = "closed", None
        if self._first_attempt is not None:
            _settle(self._first_attempt)
        if len(self._wires) == 1 and self._on_change is not None:
            self._on_change(True)

    async def _dial(self) -> Wire:
        options = self.options
        if options.via == "sentinel":
            wire, (*_, role) = await self._reach(await self._primary(), [*self._hello, encode("ROLE")])
            if role[0] != b"master":
                wire.close()
                raise Unavailable("The server that the sentinels name is not the primary yet.", engine="redis")
            return wire
        if options.via == "cluster":
            # Any of its nodes: the next one each time.
            self._turn += 1
            return (await self._reach(options.hosts[self._turn % len(options.hosts)], self._hello))[0]
        return (await self._reach((options.host, options.port), self._hello))[0]

    async def _primary(self) -> Place:
        """Return where the primary is, as the first sentinel says that knows."""
        error: PalaverError | None = None
        options = self.options
        asked = [*_login(options.sentinel_user, options.sentinel_password), encode("SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.name)]
        for place in options.hosts:
            try:
                wire, (*_, told) = await self._reach(place, asked)
            except Unauthenticated:
                error = Unauthenticated("The sentinels ask for a password of their own.", hint=_SENTINELS, engine="redis")
                continue
            except PalaverError as failed:
                error = failed
                continue
            wire.close()
            if told:
                return told[0].decode(), int(told[1])
            error = ConfigError("The sentinels know no primary of this name.", hint="Correct the name in the URL.", engine="redis")
        raise error or ConfigError("The URL names no sentinel.")

    async def _reach(self, place: Place, hello: Sequence[bytes]) -> tuple[Wire, list[Any]]:
        """Return a connection, and what was answered to its first commands."""
        assert self._loop is not None
        options = self.options
        wire = Wire(
            self._loop,
            timeout_s=options.timeout_s,
            inflight=options.inflight,
            on_lost=self._forget,
            on_push=self._on_push,
            heartbeat=encode("PING") if self._heartbeat else b"",
        )
        try:
            async with asyncio.timeout(options.connect_s):
                if options.path:
                    await self._loop.create_unix_connection(lambda: wire, options.path)
                else:
                    await self._loop.create_connection(lambda: wire, *place, ssl=_tls(options))
                replies = await asyncio.gather(*map(wire.send, hello), return_exceptions=True)
            for reply in replies:
                if isinstance(reply, BaseException):
                    raise reply
        except BaseException as error:
            wire.close()
            raise _why_not(error) from None
        return wire, replies

    def _forget(self, wire: Wire, stuck: bool) -> None:
        if wire not in self._wires:
            return
        self._wires.remove(wire)
        if not self._wires:
            if stuck:
                # It accepts connections and does not answer: no caller need wait to find that out again.
                self._error, self.breaker = Unavailable("The Redis server does not answer in time.", engine="redis"), "open"
            if self._on_change is not None:
                self._on_change(False)
        if not self._closed and not self._left:
            self._connect()


def _looked_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _load(wire: Wire) -> int:
    return len(wire.waiting)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _login(user: str, password: str) -> list[bytes]:
    return [encode("AUTH", user or "default", password)] if user or password else []


def _greeting(options: RedisOptions) -> list[bytes]:
    login = ("AUTH", options.user or "default", options.password) if options.user or options.password else ()
    select = [encode("SELECT", options.db)] if options.db else []
    return [encode("HELLO", "3", *login, "SETNAME", "palaver"), *select]


def _tls(options: RedisOptions) -> ssl.SSLContext | None:
    if not options.tls:
        return None
    try:
        return ssl.create_default_context(cafile=options.ca or None)
    except (OSError, ssl.SSLError):
        raise ConfigError("The file ca= of the Redis URL holds no certificate.") from None


def _why_not(error: BaseException) -> BaseException:
    """Return the error of the tree for a connection that was not made."""
    match error:
        case PalaverError():
            return error
        case ErrorReply():
            return translate(error.text)
        case ssl.SSLCertVerificationError():
            return Unavailable("The certificate of the Redis server is not trusted.", hint="Name its authority with ca=.", engine="redis")
        case TimeoutError():
            return Unavailable("The Redis server does not answer in time.", engine="redis")
        case Lost():
            return Unavailable("The Redis server ended the connection at once.", engine="redis")
        case OSError():
            return Unavailable("The Redis server cannot be reached.", hint="Check the URL and the server.", engine="redis")
        case Exception():
            # Whatever it was, the one task that connects has to go on trying.
            return Unavailable(f"Connecting to the Redis server failed: {type(error).__name__}.", engine="redis")
    return error
