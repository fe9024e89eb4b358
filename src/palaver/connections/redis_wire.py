"""One socket to a Redis server: commands issued in one turn of the event loop leave in one write, replies come in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from palaver.errors import Throttled

_NOTHING = object()
MOST_UNSENT_BYTES = 64 * 1024 * 1024
LONGEST_LOOK_S = 0.5
ROOM_BYTES = 64 * 1024


class ErrorReply(Exception):
    """An error as Redis worded it; never shown, because it may repeat arguments."""

    @property
    def text(self) -> str:
        return str(self.args[0]) if self.args else ""


class Lost(Exception):
    """The connection ended before the reply. `sent`: the command may have reached the server."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent
        super().__init__()


class Wire(asyncio.BufferedProtocol):
    """Sends commands and gives each the reply in its place; a caller that no longer waits does not shift the others.

    Nothing is answered late: when a reply takes longer than `timeout_s`, the connection ends for all who wait on it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_s: float,
        inflight: int,
        on_lost: Callable[[Wire, bool], None],
        on_push: Callable[[list[Any]], None] | None = None,
        heartbeat: bytes = b"",
    ) -> None:
        """`heartbeat` is sent whenever nothing else waits for a reply."""
        self._heartbeat = heartbeat
        self._loop = loop
        self._timeout_s = timeout_s
        # Often enough that the notes of what was sent when stay few, however long a reply may take.
        self._every_s = min(timeout_s / 4, LONGEST_LOOK_S)
        self._inflight = inflight
        self._on_lost = on_lost
        self._on_push = on_push
        reader = hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=ErrorReply, notEnoughData=_NOTHING)
        self._feed, self._gets = reader.feed, reader.gets
        # Without one of our own the loop takes 256 KB for each read, and may give them back to the system each time.
        self._room = memoryview(bytearray(ROOM_BYTES))
        self._future, self._soon = loop.create_future, loop.call_soon
        self._out: list[bytes] = []
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self._answered = self._unsent_bytes = 0
        self._sent_at: deque[tuple[int, float]] = deque()
        self._paused = self._lost = self._stuck = self._retired = False
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Queue one command; raises Throttled over the bound. The future gives the reply, ErrorReply or Lost."""
        if len(self.waiting) >= self._inflight:
            self.check_room(1)
        future = self._future()
        if self._lost:
            future.set_exception(Lost(sent=False))
            return future
        if self._unsent_bytes > MOST_UNSENT_BYTES:
            raise Throttled("Too many bytes wait to be sent to Redis.", hint="Ask for less at once.")
        self._unsent_bytes += len(command)
        if not self._out:
            self._soon(self._flush)
        self._out.append(command)
        self.waiting.append(future)
        return future

    def check_room(self, count: int) -> None:
        """Raise Throttled where so many more commands are over the bound."""
        if len(self.waiting) + count > self._inflight:
            raise Throttled("Too many commands wait for their reply from Redis.", hint="Ask for less at once, or raise inflight=.")

    def tell(self, command: bytes) -> None:
        """Queue a command that is answered by pushes, not by a reply."""
        if not self._out:
            self._soon(self._flush)
        self._out.append(command)

    def retire(self) -> None:
        """End when everything that waits has its reply."""
        self._retired = True
        if not self.waiting:
            self.close()

    def close(self) -> None:
        self._ended()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._paused or self._lost or not self._out or self._transport is None:
            return
        out, self._out, self._unsent_bytes = self._out, [], 0
        self._sent_at.append((self._answered + len(self.waiting), self._loop.time()))
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # --- called by the event loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._watch = self._loop.call_later(self._every_s, self._look)
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        gets, next_one = self._gets, self.waiting.popleft
        answered = 0
        try:
            self._feed(self._room, 0, nbytes)  # type: ignore[arg-type]
            while (reply := gets()) is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                future = next_one()
                answered += 1
                if not future.done():
                    if type(reply) is ErrorReply:
                        future.set_exception(reply)
                    else:
                        future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            # What follows cannot be told apart any more, so nobody is given a reply that may be another's.
            self.close()
        self._answered += answered
        if self._retired and not self.waiting:
            self.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _look(self) -> None:
        """Notice a server that no longer answers: one look now and then instead of a timer for each command."""
        times = self._sent_at
        while times and times[0][0] <= self._answered:
            times.popleft()
        if times and self._loop.time() - times[0][1] > self._timeout_s:
            self._stuck = True
            self.close()
            return
        if self._heartbeat and not self.waiting:
            self.send(self._heartbeat).add_done_callback(_ignored)
        self._watch = self._loop.call_later(self._every_s, self._look)

    def _ended(self) -> None:
        if self._lost:
            return
        self._lost = True
        if self._watch is not None:
            self._watch.cancel()
        unsent = len(self._out)
        sent = len(self.waiting) - unsent
        for number, future in enumerate(self.waiting):
            if not future.done():
                future.set_exception(Lost(sent=number < sent))
                # Who gave up waiting has gone without asking; that is no error nobody looked at.
                future.exception()
        self.waiting.clear()
        self._out.clear()
        self._on_lost(self, self._stuck)


def _ignored(future: asyncio.Future[Any]) -> None:
    """Take what became of a heartbeat: a lost connection is told in another way."""
    if not future.cancelled():
        future.exception()
