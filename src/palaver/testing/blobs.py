"""The conformance suite of blob stores.

Subclass `BlobStoreTests` and give it two fixtures: `blobs`, a fresh store, and `backdoor`, the same storage reached
without the store's own code, so that a mistake shared by `put` and `get` is seen. Needs pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Protocol

import pytest

from palaver.blob_ports import BlobInfo, BlobStore
from palaver.blobs.orphans import orphans
from palaver.clock import EPOCH, ManualClock, use
from palaver.errors import ConfigError, Corruption, KeyTooLong, NotFound, PalaverError, Validation
from palaver.testing.blob_streams import BlobStreamTests

HOSTILE_KEYS = [
    "", ".", "..", "/", "//", "a/", "/a", "a//b", "../../etc/passwd", "a/../b", "a/./b", "..\\..\\x", "C:\\x", "\\\\host\\share", "~/x",
    "a", "A", "a/b", "a/B", "A/b", "a/b/c", "a-b", "a-b/c", "a.b", "a!", "a ", " a", "a.", ".a", "a..b", "...", "a.json", "a.JSON",
    "con", "CON", "nul.txt", "com1", "lpt9.log", "aux/con", "é", "e\u0301", "ß", "SS", "ı", "İ", "K", "K", "日本語", "👩‍💻", "\u202eabc",
    "x\r\nSet-Cookie: y", "\t", "\x01\x7f", "%2e%2e", "%2F", "=", "==", "=2f", "a=", "a=/b", "=o", "x=o", "*?<>|:\"'", "$(id)", "`id`",
    "; rm -rf /", "#1", "a#1", ".incoming", ".incoming/x", "&", "+", "u" * 300, "u" * 300 + "/x", "u" * 301, "U" * 300, "😀" * 75,
    "." * 300, "e" * 64, "e" * 64 + "/x",
]  # fmt: skip


def addressed(folder: str, data: bytes) -> str:
    """Return a key as the planner makes them: the folder and the hash of the bytes."""
    return f"{folder}/{hashlib.sha256(data).hexdigest()}"


class BlobBackdoor(Protocol):
    async def read(self, key: str) -> bytes | None: ...

    async def write(self, key: str, data: bytes) -> None: ...

    async def count(self) -> int:
        """Return how many files, objects or uploads under way the storage holds, of whatever kind."""
        ...


async def keys_of(listed: AsyncIterator[BlobInfo]) -> list[str]:
    return [info.key async for info in listed]


def in_byte_order(keys: list[str]) -> list[str]:
    return sorted(keys, key=lambda key: key.encode())


class BlobStoreTests(BlobStreamTests):
    tick_s = 0.02
    """How far apart two puts must be for their ages to differ: a second in S3."""

    @pytest.fixture
    async def blobs(self) -> AsyncIterator[BlobStore]:
        raise NotImplementedError("a subclass gives the fixture `blobs`")
        yield  # noqa: PT022 - it makes this an async generator, as the fixtures that replace it are

    @pytest.fixture
    async def backdoor(self, blobs: BlobStore) -> BlobBackdoor:
        raise NotImplementedError("a subclass gives the fixture `backdoor`")

    # --- putting and getting ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"", b"x", b"\0\xff\r\n" * 100, b"large" * 400_000], ids=["empty", "one", "binary", "large"])
    async def test_what_was_put_is_read_and_lies_in_the_storage_unchanged(
        self, blobs: BlobStore, backdoor: BlobBackdoor, data: bytes
    ) -> None:
        key = addressed("t/u/2026/01/02/context.json", data)
        await blobs.put(key, data)
        assert data == await blobs.get(key)
        assert data == await backdoor.read(key)
        assert await backdoor.count() == 1

    async def test_a_missing_object_is_not_found_and_has_no_head(self, blobs: BlobStore) -> None:
        await blobs.put("a/b", b"x")
        for key in ("a", "a/b/c", "a/c", "b", ""):
            with pytest.raises(NotFound):
                await blobs.get(key)
            with pytest.raises(NotFound):
                await blobs.get(key, start=1, length=1)
            assert await blobs.head(key) is None

    async def test_putting_again_is_no_error_and_restarts_the_age(self, blobs: BlobStore) -> None:
        key = addressed("t/u", b"x")
        await blobs.put(key, b"x")
        first = await blobs.head(key)
        await asyncio.sleep(self.tick_s)
        await blobs.put(key, b"x")
        second = await blobs.head(key)
        assert first is not None
        assert second is not None
        assert (key, 1) == first[:2] == second[:2]
        assert first.modified_us < second.modified_us

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 4, b"0123"), (2, 3, b"234"), (2, None, b"23456789"), (8, 10, b"89"), (0, 0, b""), (3, 0, b""), (10, 1, b""), (99, None, b"")],
    )
    async def test_a_range_gives_the_bytes_that_exist(self, blobs: BlobStore, start: int, length: int | None, expected: bytes) -> None:
        await blobs.put("k", b"0123456789")
        assert expected == await blobs.get("k", start=start, length=length)

    @pytest.mark.parametrize(("start", "length"), [(-1, None), (0, -1), (-1, 5)])
    async def test_a_negative_range_is_not_valid(self, blobs: BlobStore, start: int, length: int | None) -> None:
        await blobs.put("k", b"0123456789")
        with pytest.raises(Validation):
            await blobs.get("k", start=start, length=length)

    async def test_bytes_that_do_not_have_the_hash_of_their_key_are_refused(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        with pytest.raises(Validation):
            await blobs.put(addressed("t/u", b"right"), b"wrong")
        assert await backdoor.count() == 0

    async def test_damaged_bytes_are_corruption_until_they_are_put_again(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        key = addressed("t/u", b"whole")
        await blobs.put(key, b"whole")
        for damaged in (b"who", b"", b"whale"):
            await backdoor.write(key, damaged)
            with pytest.raises(Corruption):
                await blobs.get(key)
        await blobs.put(key, b"whole")
        assert b"whole" == await blobs.get(key)

    async def test_concurrent_puts_of_one_key_all_succeed_and_readers_see_it_whole(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        data = b"0123456789" * 5_000
        key = addressed("t/u", data)
        await blobs.put(key, data)
        got = await asyncio.gather(*(blobs.put(key, data) if number % 2 else blobs.get(key) for number in range(40)))
        assert {None, data} == set(got)
        assert await backdoor.count() == 1

    # --- deleting ---------------------------------------------------------------------------------------------------

    async def test_deleting_removes_the_named_objects_only(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        for key in ("a/1", "a/2", "a/2/3", "b"):
            await blobs.put(key, b"x")
        await blobs.delete(["a/2", "b", "a/2", "missing", "a/missing/x"])
        assert ["a/1", "a/2/3"] == await keys_of(blobs.list())
        assert await backdoor.read("a/2") is None
        await blobs.delete(["a/2", "b"])
        await blobs.delete([])
        assert await backdoor.count() == 2

    async def test_objects_put_while_their_neighbours_are_deleted_are_there(self, blobs: BlobStore) -> None:
        async def come_and_go(number: int) -> None:
            for _ in range(10):
                await blobs.put(f"t/u/d/{number}", b"x")
                await blobs.delete([f"t/u/d/{number}"])
            await blobs.put(f"t/u/d/{number}", b"x")

        await asyncio.gather(*(come_and_go(number) for number in range(8)))
        assert [f"t/u/d/{number}" for number in range(8)] == await keys_of(blobs.list())

    # --- keys -------------------------------------------------------------------------------------------------------

    async def test_hostile_keys_never_meet_and_come_back_as_they_were(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        keys = list(dict.fromkeys(HOSTILE_KEYS))
        for number, key in enumerate(keys):
            await blobs.put(key, b"%d" % number)
        for number, key in enumerate(keys):
            assert b"%d" % number == await blobs.get(key)
        assert await backdoor.count() == len(keys)
        assert in_byte_order(keys) == await keys_of(blobs.list())
        await blobs.delete(keys[::2])
        assert in_byte_order(keys[1::2]) == await keys_of(blobs.list())

    async def test_a_key_too_long_for_some_storage_is_refused_everywhere(self, blobs: BlobStore) -> None:
        for key in ("u" * 1_100, "/" * 1_100):
            with pytest.raises(KeyTooLong):
                await blobs.put(key, b"x")

    # --- listing ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "prefix", ["", "t", "t/", "t/u", "t/u/", "t/u/2026/0", "t/u/2026/01/", "t/u2", "T", "x", "t/u/2026/01/a/b/c", "/"]
    )
    async def test_a_prefix_is_text_and_keys_come_in_byte_order(self, blobs: BlobStore, prefix: str) -> None:
        keys = [
            "t",
            "t/",
            "t/u/2026/01/a",
            "t/u/2026/01/a/b",
            "t/u/2026/01-a",
            "t/u/2026/02/a",
            "t/u-1/a",
            "t/u2/a",
            "t-1/u/a",
            "T/u/a",
            "/",
        ]
        keys += ["t/u/2026/01/" + "z" * 250 + tail for tail in ("", "/", "a", "/a", "-")]
        for key in reversed(keys):
            await blobs.put(key, key.encode())
        expected = in_byte_order([key for key in keys if key.startswith(prefix)])
        assert [(key, len(key)) for key in expected] == [(info.key, info.size) async for info in blobs.list(prefix)]

    async def test_listing_while_others_put_and_delete_gives_every_object_that_stays(self, blobs: BlobStore) -> None:
        staying = [f"t/u/stay{number:02d}" for number in range(30)]
        for key in staying:
            await blobs.put(key, b"x")

        async def churn(name: str) -> None:
            for _ in range(20):
                await blobs.put(f"t/u/{name}/x", b"x")
                await blobs.delete([f"t/u/{name}/x"])

        churning = asyncio.gather(*(churn(name) for name in "abc"))
        while not churning.done():
            assert staying == [key for key in await keys_of(blobs.list("t/")) if "stay" in key]
        await churning

    # --- orphans ----------------------------------------------------------------------------------------------------

    async def test_orphans_are_old_and_not_referenced(self, blobs: BlobStore) -> None:
        for key in ("t/a", "t/b", "t/c", "s/d"):
            await blobs.put(key, b"x")
        info = await blobs.head("t/a")
        assert info is not None
        uploaded = EPOCH + timedelta(microseconds=info.modified_us)

        async def referenced() -> AsyncIterator[str]:
            yield "t/b"

        with use(ManualClock(uploaded + timedelta(hours=2))):
            assert [] == await keys_of(orphans(blobs, ["t/b"]))
            assert ["s/d", "t/a", "t/c"] == await keys_of(orphans(blobs, {"t/b"}, older_than=timedelta(hours=1)))
            assert ["t/a", "t/c"] == await keys_of(orphans(blobs, referenced(), older_than=timedelta(hours=1), prefix="t/"))

    # --- errors -----------------------------------------------------------------------------------------------------

    async def test_errors_do_not_tell_keys_or_bytes(self, blobs: BlobStore, backdoor: BlobBackdoor) -> None:
        key = addressed("t/canary-subject", b"canary-bytes")
        await backdoor.write(key, b"damaged")
        errors: list[PalaverError] = []
        for attempt in (
            blobs.get(key),
            blobs.get("canary-subject/missing"),
            blobs.put(key, b"canary-wrong"),
            blobs.put("canary" * 200, b""),
        ):
            with pytest.raises(PalaverError) as caught:
                await attempt
            errors.append(caught.value)
        assert [Corruption, NotFound, Validation, KeyTooLong] == [type(error) for error in errors]
        assert not [error for error in errors if "canary" in f"{error} {error.context} {error.__cause__}"]

    async def test_a_closed_store_refuses_everything(self, blobs: BlobStore) -> None:
        await blobs.aclose()
        await blobs.aclose()
        for attempt in (blobs.put("a", b""), blobs.get("a"), blobs.head("a"), blobs.delete(["a"]), keys_of(blobs.list())):
            with pytest.raises(ConfigError):
                await attempt
