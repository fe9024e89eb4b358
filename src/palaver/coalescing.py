"""What is asked for at one moment is asked for in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from palaver.errors import ConfigError

A = TypeVar("A")
B = TypeVar("B")


class Coalescer(Generic[A, B]):
    """Gathers what is asked for in one turn of the event loop into requests of at most `most`.

    Who gives up waiting takes nothing from the others. An error of a request is the error of all who share it.
    """

    def __init__(self, request: Callable[[Sequence[A]], Awaitable[Sequence[B]]], most: int) -> None:
        """`request` returns an answer for each that is asked for, in their order."""
        self._request, self._most = request, most
        self._asked: list[tuple[A, asyncio.Future[B]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._several = self._busy = False

    def get(self, what: A) -> Awaitable[B]:
        """Return the answer. Who is alone in asking asks at once: waiting for others would only cost time."""
        return self.ask(what) if self._several or self._busy else self._alone(what)

    def ask(self, what: A) -> asyncio.Future[B]:
        """Ask together with all who ask in this turn."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[B] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._begin)
        self._asked.append((what, answer))
        return answer

    async def aclose(self) -> None:
        """Wait for the requests under way."""
        await asyncio.gather(*self._under_way)

    async def _alone(self, what: A) -> B:
        self._busy = True
        try:
            return (await self._request((what,)))[0]
        finally:
            self._busy = False

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        self._several = len(asked) > 1
        for start in range(0, len(asked), self._most):
            task = asyncio.get_running_loop().create_task(self._answer(asked[start : start + self._most]), name="palaver-coalescer")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer(self, asked: Sequence[tuple[A, asyncio.Future[B]]]) -> None:
        try:
            found = await self._request([what for what, _ in asked])
        except BaseException as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error if isinstance(error, Exception) else ConfigError("The store is closed."))
            if not isinstance(error, Exception):
                raise
            return
        for (_, answer), one in zip(asked, found, strict=True):
            if not answer.done():
                answer.set_result(one)
