"""A TCP proxy that cuts connections where a test wants it: before a request reaches the server, or before its answer comes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal


class Proxy:
    """Forwards to one server. `cut_next` loses the next request, or does it and loses the answer."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: Literal["", "request", "answer"] = ""
        self.cuts = 0
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_next(self, what: Literal["request", "answer"]) -> None:
        self._cut = what

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._to)
            losing = asyncio.Event()
            back = asyncio.ensure_future(self._answers(answers, writer, losing))
            back.add_done_callback(lambda _: writer.transport.abort())
            try:
                await self._requests(reader, upstream, back, losing)
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, upstream):
                if each is not None:
                    each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, back: asyncio.Future[None], losing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            cut, self._cut = self._cut, ""
            if cut == "request":
                self.cuts += 1
                return
            if cut == "answer":
                losing.set()
            upstream.write(data)
            await upstream.drain()
            if cut == "answer":
                with contextlib.suppress(asyncio.CancelledError):
                    await back
                self.cuts += 1
                return

    async def _answers(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while data := await answers.read(1 << 16):
            if losing.is_set():
                return
            writer.write(data)
            await writer.drain()
