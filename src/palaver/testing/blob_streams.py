"""The conformance suite of objects in pieces: what a store promises of `put` and `get` it promises of a stream."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from palaver.blob_ports import BlobStore
from palaver.errors import ConfigError, Corruption, KeyTooLong, NotFound, Validation

MB = 1024 * 1024
PIECES = [[], [b""], [b"x"], [b"", b"a", b"", b"bc"], [b"0123456789" * 100_000] * 3]
LARGE = [random.Random(7).randbytes(length) for length in (1, 3 * MB, 5 * MB - 1, 9 * MB, 70_001, 0, 4 * MB)]
"""More than two parts of what is stored in parts, and no piece ends where a part does."""


def addressed_by(whole: bytes) -> str:
    return f"t/u/{hashlib.sha256(whole).hexdigest()}"


async def given(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def all_of(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


class Held:
    """Pieces, and then none until `goes_on` is set."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.waits, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        self.waits.set()
        await self.goes_on.wait()


class BlobStreamTests:
    """Part of `BlobStoreTests`, which has its fixtures."""

    @pytest.mark.parametrize("pieces", [*PIECES, LARGE], ids=["none", "empty", "one", "small", "some", "large"])
    async def test_what_came_in_pieces_is_one_object_and_is_read_whole_or_in_pieces(
        self, blobs: BlobStore, backdoor: Any, pieces: list[bytes]
    ) -> None:
        whole = b"".join(pieces)
        key = addressed_by(whole)
        await blobs.put_stream(key, given(pieces), len(whole))
        assert whole == await backdoor.read(key)
        assert await backdoor.count() == 1
        assert whole == await blobs.get(key)
        read = [piece async for piece in blobs.get_stream(key)]
        assert whole == b"".join(read)
        assert all(0 < len(piece) <= 8 * MB for piece in read)

    @pytest.mark.parametrize(
        ("start", "length"), [(0, None), (0, 0), (0, 1), (8 * MB - 1, 2), (8 * MB, 8 * MB), (5, 17 * MB), (10**9, 3), (20 * MB, None)]
    )
    async def test_a_range_of_a_stream_is_the_bytes_that_exist(self, blobs: BlobStore, start: int, length: int | None) -> None:
        whole = b"".join(LARGE)
        key = addressed_by(whole)
        await blobs.put_stream(key, given(LARGE), len(whole))
        end = len(whole) if length is None else start + length
        assert whole[start:end] == await all_of(blobs.get_stream(key, start=start, length=length))

    async def test_pieces_of_another_hash_or_size_are_refused_and_leave_nothing(self, blobs: BlobStore, backdoor: Any) -> None:
        for pieces in ([b"right"], LARGE):
            whole = b"".join(pieces)
            wrong: list[tuple[list[bytes], int]] = [
                ([*pieces[:-1], b"wrong" + pieces[-1][5:]], len(whole)),
                ([*pieces, b"more"], len(whole)),
                (pieces[:-1], len(whole)),
                (pieces, len(whole) + 1),
                (pieces, len(whole) - 1),
            ]
            for given_ones, size in wrong:
                with pytest.raises(Validation):
                    await blobs.put_stream(addressed_by(whole), given(given_ones), size)
                assert await backdoor.count() == 0

    async def test_nothing_is_visible_before_the_last_piece(self, blobs: BlobStore) -> None:
        whole = b"".join(LARGE)
        key = addressed_by(whole)
        source = Held(LARGE)
        putting = asyncio.create_task(blobs.put_stream(key, source, len(whole)))
        await source.waits.wait()
        assert await blobs.head(key) is None
        assert [] == [info.key async for info in blobs.list()]
        source.goes_on.set()
        await putting
        assert whole == await all_of(blobs.get_stream(key))

    @pytest.mark.parametrize("pieces", [[b"a"], LARGE], ids=["small", "large"])
    async def test_a_stream_that_is_cancelled_leaves_nothing(self, blobs: BlobStore, backdoor: Any, pieces: list[bytes]) -> None:
        whole = b"".join(pieces)
        source = Held(pieces)
        putting = asyncio.create_task(blobs.put_stream(addressed_by(whole), source, len(whole)))
        await source.waits.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert await backdoor.count() == 0
        await blobs.put_stream(addressed_by(whole), given(pieces), len(whole))
        assert whole == await backdoor.read(addressed_by(whole))

    @pytest.mark.parametrize("raised", [ConnectionResetError("the caller's"), ValueError("the caller's"), NotFound("the caller's")])
    async def test_an_error_of_the_source_goes_through_and_leaves_nothing(self, blobs: BlobStore, backdoor: Any, raised: Exception) -> None:
        async def breaking() -> AsyncIterator[bytes]:
            for piece in LARGE:
                yield piece
            raise raised

        with pytest.raises(type(raised)) as caught:
            await blobs.put_stream(addressed_by(b"".join(LARGE)), breaking(), sum(map(len, LARGE)))
        assert raised is caught.value
        assert await backdoor.count() == 0

    async def test_a_damaged_object_never_streams_to_its_end(self, blobs: BlobStore, backdoor: Any) -> None:
        whole = b"".join(LARGE)
        key = addressed_by(whole)
        for damaged in (b"", b"other", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\0" + whole[1:]):
            await backdoor.write(key, damaged)
            got = b""
            with pytest.raises(Corruption):
                async for piece in blobs.get_stream(key):
                    got += piece
            assert len(got) < max(1, len(damaged))

    async def test_streams_of_several_objects_at_once_do_not_mix(self, blobs: BlobStore, backdoor: Any) -> None:
        objects = {addressed_by(whole): whole for whole in (bytes([number]) * (9 * MB + number) for number in range(4))}

        async def there_and_back(key: str, whole: bytes) -> bool:
            await blobs.put_stream(key, given([whole[at : at + 700_000] for at in range(0, len(whole), 700_000)]), len(whole))
            return whole == await all_of(blobs.get_stream(key))

        assert all(await asyncio.gather(*(there_and_back(key, whole) for key, whole in [*objects.items(), *objects.items()])))
        assert await backdoor.count() == len(objects)

    async def test_who_stops_reading_leaves_nothing_open(self, blobs: BlobStore) -> None:
        whole = b"".join(LARGE)
        await blobs.put_stream(addressed_by(whole), given(LARGE), len(whole))
        before = asyncio.all_tasks()
        async with aclosing(blobs.get_stream(addressed_by(whole))) as stream:
            assert whole.startswith(await anext(stream))
        assert before == asyncio.all_tasks()

    async def test_a_stream_refuses_what_put_and_get_refuse(self, blobs: BlobStore) -> None:
        for key in ("missing", addressed_by(b"missing")):
            with pytest.raises(NotFound):
                await all_of(blobs.get_stream(key))
        with pytest.raises(Validation):
            await all_of(blobs.get_stream("k", start=-1))
        with pytest.raises(KeyTooLong):
            await blobs.put_stream("u" * 1_100, given([]), 0)
        await blobs.aclose()
        with pytest.raises(ConfigError):
            await blobs.put_stream("k", given([b"x"]), 1)
        with pytest.raises(ConfigError):
            await all_of(blobs.get_stream("k"))
