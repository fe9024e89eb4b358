"""What a process needs in memory to store and read a large object: a few parts of it, on every engine that keeps it elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import servers
from tests.engines.s3 import TestBucket

MB = 1024 * 1024
SIZE = 256 * MB
BOUND = 120 * MB
"""Eight parts of 8 MiB twice over (what is sent is copied once), and no whole object."""

CHILD = """
    import asyncio, hashlib, json, resource, sys
    from palaver.blobs.opening import open_blobs

    MB, url, size, key = 1024 * 1024, sys.argv[1], int(sys.argv[2]), sys.argv[3]
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    async def pieces(size):
        for number in range(size // MB):
            yield number.to_bytes(8, "big") * (MB // 8)

    async def main():
        blobs = open_blobs(url)
        # What is loaded once, by the first request of each kind, is not the object's.
        small = hashlib.sha256(b"".join([piece async for piece in pieces(9 * MB)])).hexdigest()
        await blobs.put_stream(f"t/{small}", pieces(9 * MB), 9 * MB)
        async for _ in blobs.get_stream(f"t/{small}"):
            pass
        before = peak()
        await blobs.put_stream(key, pieces(size), size)
        stored = peak()
        digest = hashlib.sha256()
        async for piece in blobs.get_stream(key):
            digest.update(piece)
        assert key.endswith(digest.hexdigest())
        print(json.dumps([stored - before, peak() - before]))
        await blobs.delete([key])
        await blobs.aclose()

    asyncio.run(main())
"""


STORED = """
    import asyncio, json, resource, sys
    from typing import Annotated
    import palaver
    from palaver import Blob, Entity, Key, LargeObject, Schema

    MB, url, size = 1024 * 1024, sys.argv[1], int(sys.argv[2])
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    class Recording(Entity, table="recordings"):
        id: str
        audio: Annotated[LargeObject, Blob("recordings/{id}")]
        key = Key("id")

    async def pieces(size):
        for number in range(size // MB):
            yield number.to_bytes(8, "big") * (MB // 8)

    async def there_and_back(store, id, size):
        async with LargeObject.staged(pieces(size)) as audio:
            await store.create(Recording(id=id, audio=audio))
        found = await store.get(Recording.at(id))
        assert size == sum([len(piece) async for piece in store.stream(found.audio)])

    async def main():
        async with palaver.open(url, schema=Schema("recordings", [Recording]), maintain=False) as store:
            await there_and_back(store, "small", 9 * MB)
            before = peak()
            await there_and_back(store, "large", size)
            print(json.dumps([peak() - before] * 2))

    asyncio.run(main())
"""


def measured(url: str, child: str = CHILD, **environ: str) -> tuple[int, int]:
    """Return by how much the process grew at most while it stored, and while it stored and read."""
    digest = hashlib.sha256()
    for number in range(SIZE // MB):
        digest.update(number.to_bytes(8, "big") * (MB // 8))
    command = [sys.executable, "-c", textwrap.dedent(child), url, str(SIZE), f"t/{digest.hexdigest()}"]
    out = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=120, check=False)
    assert not out.returncode, out.stderr
    storing, both = json.loads(out.stdout)
    return storing, both


def test_a_folder_takes_and_gives_256_mb_in_little_memory(tmp_path: Path) -> None:
    assert max(measured(f"file:{tmp_path}")) < BOUND


def test_a_record_takes_and_gives_256_mb_in_little_memory(tmp_path: Path) -> None:
    assert max(measured(f"sqlite:///{tmp_path}/a.db", STORED)) < BOUND


@pytest.mark.parametrize("server", servers.s3_endpoints()[:1])
def test_s3_takes_and_gives_256_mb_in_little_memory(server: str) -> None:
    at = servers.endpoint(server)
    bucket = TestBucket(at)
    try:
        found = measured(
            bucket.url(), AWS_ACCESS_KEY_ID=at.access_key, AWS_SECRET_ACCESS_KEY=at.secret_key, AWS_SESSION_TOKEN=at.session_token or ""
        )
        assert max(found) < BOUND
    finally:
        bucket.close()
