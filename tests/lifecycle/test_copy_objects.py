"""Objects of any size are copied and compared in a few parts of memory, and a long stream that broke off is begun again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from palaver.blobs.pieces import PART
from palaver.errors import Corruption, Unavailable
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_blobs import Objects
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_pace import Pace
from palaver.lifecycle.copy_progress import Progress
from palaver.lifecycle.copy_verify import verify
from tests.lifecycle.copying import opened, url_of

MB = 1024 * 1024
SIZE = 192 * MB
BOUND = 120 * MB
"""What one stream holds; three objects of that size come at once."""

CHILD = """
    import asyncio, hashlib, json, resource, sys
    from palaver.lifecycle.copy import Copy
    from palaver.lifecycle.copy_ends import End
    from palaver.lifecycle.copy_verify import verify
    from tests.lifecycle.copying import opened

    MB, size = 1024 * 1024, int(sys.argv[3])
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    async def pieces(first, size):
        for number in range(size // MB):
            yield (first + number).to_bytes(8, "big") * (MB // 8)

    async def put(end, first, size):
        digest = hashlib.sha256()
        async for piece in pieces(first, size):
            digest.update(piece)
        await end.core.blobs.put_stream(f"t/{digest.hexdigest()}", pieces(first, size), size)

    async def copied():
        async with opened(sys.argv[1]) as source, End.open(sys.argv[2], source.core.schema) as target:
            report = await Copy(source, target, provision=True).run()
            assert (await verify(source, target)).same
            return report.bytes

    async def main():
        async with opened(sys.argv[1]) as source:
            await put(source, 0, 9 * MB)
        await copied()
        before = peak()
        async with opened(sys.argv[1]) as source:
            for first in (1_000, 2_000, 3_000):
                await put(source, first, size)
            await source.core.blobs.put_stream("t/unnamed", pieces(4_000, size), size)
        print(json.dumps([await copied(), peak() - before]))

    asyncio.run(main())
"""


def test_objects_of_any_size_are_copied_and_compared_in_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), url_of("sqlite", tmp_path, "a"), url_of("sqlite", tmp_path, "b"), str(SIZE)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert not out.returncode, out.stderr
    moved, grown = json.loads(out.stdout)
    assert 4 * SIZE == moved
    assert grown < BOUND


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[tuple[End, End]]:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(url_of("sqlite", tmp_path, "a")))
        yield source, await stack.enter_async_context(opened(url_of("sqlite", tmp_path, "b")))


LARGE = b"0123456789abcdef" * (PART // 16) + b"end"


async def put(end: End, data: bytes) -> str:
    key = f"t/{sha256(data).hexdigest()}"
    await end.core.blobs.put(key, data)
    return key


async def test_a_large_object_that_is_damaged_at_the_source_is_refused(ends: tuple[End, End], tmp_path: Path) -> None:
    source, target = ends
    await put(source, LARGE)
    (file,) = [path for path in (tmp_path / "a.db.blobs").rglob("*") if path.is_file()]
    file.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(Corruption, match="source"):
        await Copy(source, target).run()
    assert [] == [info async for info in target.core.blobs.list()]


async def test_a_large_object_that_differs_at_the_target_is_different(ends: tuple[End, End], tmp_path: Path) -> None:
    source, target = ends
    await put(source, LARGE)
    for end in ends:
        await end.core.blobs.put("t/unnamed", LARGE)
    await Copy(source, target, into_existing=True).run()
    assert (await verify(source, target)).objects.same
    await target.core.blobs.put("t/unnamed", LARGE[:-1] + b"!")
    (file,) = [path for path in (tmp_path / "b.db.blobs").rglob("*") if path.is_file() and "unnamed" not in path.name]
    file.write_bytes(LARGE[:-1] + b"!")
    assert 2 == (await verify(source, target)).objects.different


async def test_what_a_record_needs_is_brought_in_pieces_and_what_is_gone_is_left_out(ends: tuple[End, End]) -> None:
    source, target = ends
    large, small = await put(source, LARGE), await put(source, b"small")
    told: list[int] = []
    progress = Progress(target, "source")
    async with progress.held():
        objects = Objects(source, target, progress, told.append)
        await objects.bring([large, small, f"t/{'0' * 64}"])
        await objects.bring([large, small])
    assert ([1, 1], len(LARGE) + 5) == (told, objects.moved.bytes)
    assert LARGE == await target.core.blobs.get(large)


async def test_patience_is_counted_from_the_first_failure_and_not_from_the_beginning() -> None:
    # What takes longer than that by itself, as an object of gigabytes does, would never be tried again.
    tries: list[float] = []

    async def slow() -> str:
        await asyncio.sleep(0.2)
        tries.append(0)
        if len(tries) == 1:
            raise Unavailable("The other side was away.")
        return "whole"

    assert "whole" == await Pace(patience_s=0.1).run(slow)
