"""The places of an embedded store: a folder, asked in threads because a disk blocks, and memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from palaver.blobs.folder import Folder, Held
from palaver.blobs.pieces import PART
from palaver.clock import now, to_us

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class InThreads:
    """A folder whose calls leave the event loop free."""

    levels = 2  # looking into a folder is cheap beside the memory that sorting all objects takes
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Folder, run: Run) -> None:
        self._folder, self._run = folder, run

    async def put(self, path: str, data: bytes) -> None:
        await self._run(partial(self._folder.put, path, data))

    async def whole(self, path: str) -> bytes:
        return await self.part(path, 0, None)

    async def part(self, path: str, start: int, length: int | None) -> bytes:
        data: bytes = await self._run(partial(self._folder.get, path, start, length))
        return data

    async def put_parts(self, path: str, parts: AsyncIterator[bytes], size: int) -> None:
        incoming = self._folder.incoming()
        try:
            async for part in parts:
                await self._run(partial(incoming.write, part))
            await self._run(partial(incoming.publish, path))
        finally:
            await self._run(incoming.discard)

    async def parts(self, path: str, start: int, length: int | None) -> AsyncGenerator[bytes, None]:
        at, end = start, sys.maxsize if length is None else start + length
        # Opened once: an object that is deleted meanwhile is still read to its end.
        file = await self._run(partial(open, self._folder.root / path, "rb", buffering=0))
        try:
            file.seek(start)
            while piece := await self._run(partial(file.read, min(PART, end - at))):
                at += len(piece)
                yield piece
        finally:
            file.close()

    async def head(self, path: str) -> Held:
        found: Held = await self._run(partial(self._folder.head, path))
        return found

    async def delete(self, paths: list[str]) -> None:
        await self._run(partial(self._folder.delete, paths))

    async def level(self, folder: str) -> tuple[list[str], list[Held]]:
        found: tuple[list[str], list[Held]] = await self._run(partial(self._folder.level, folder))
        return found

    async def below(self, folder: str) -> list[Held]:
        found: list[Held] = await self._run(partial(self._folder.below, folder))
        return found


class Memory:
    """Objects in this process, gone when it ends. Each call lets others run, as with every other place."""

    levels = 0
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}

    async def put(self, path: str, data: bytes) -> None:
        await asyncio.sleep(0)
        self.objects[path] = bytes(data), to_us(now())

    async def whole(self, path: str) -> bytes:
        return await self.part(path, 0, None)

    async def part(self, path: str, start: int, length: int | None) -> bytes:
        await asyncio.sleep(0)
        data = self._at(path)[0]
        return data[start:] if length is None else data[start : start + length]

    async def put_parts(self, path: str, parts: AsyncIterator[bytes], size: int) -> None:
        gathered = [part async for part in parts]
        await self.put(path, b"".join(gathered))

    async def parts(self, path: str, start: int, length: int | None) -> AsyncGenerator[bytes, None]:
        data = self._at(path)[0]
        end = len(data) if length is None else min(len(data), start + length)
        for at in range(start, end, PART):
            yield data[at : min(end, at + PART)]

    async def head(self, path: str) -> Held:
        await asyncio.sleep(0)
        data, modified_us = self._at(path)
        return Held(path, len(data), modified_us)

    async def delete(self, paths: list[str]) -> None:
        await asyncio.sleep(0)
        for path in paths:
            self.objects.pop(path, None)

    async def level(self, folder: str) -> tuple[list[str], list[Held]]:
        return [], await self.below(folder)

    async def below(self, folder: str) -> list[Held]:
        await asyncio.sleep(0)
        inside = f"{folder}/" if folder else ""
        return [Held(path, len(data), us) for path, (data, us) in self.objects.items() if path.startswith(inside)]

    def _at(self, path: str) -> tuple[bytes, int]:
        found = self.objects.get(path)
        if found is None:
            raise FileNotFoundError
        return found
