"""What S3 has that a folder has not: parts, conditions, encryption, classes, addresses for others, versions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from palaver.blob_ports import CreatesObjects, Presigned, Presigns
from palaver.blobs.paths import path_of
from palaver.blobs.pieces import PART
from palaver.blobs.s3 import S3Blobs
from palaver.connections.s3 import Answer
from palaver.errors import ConfigError, KeyTooLong, Unavailable, Validation
from palaver.testing.blob_streams import given
from palaver.testing.blobs import addressed, keys_of
from tests import servers
from tests.engines.s3 import S3Backdoor, TestBucket

SIGNATURES = {"moto": "moto checks neither the signature nor the expiry of an address"}
CHECKSUMS = dict.fromkeys(("moto", "radosgw"), "the bytes of an upload are not compared with the checksum that was signed")
ENCRYPTION = {"radosgw": "Ceph 16 encrypts and does not say so, and has no keys without a service for them"}


def endpoints(gaps: dict[str, str]) -> list[object]:
    """Every endpoint; where one is known to be wrong, the test is expected to fail, strictly."""
    known = servers.s3_endpoints()
    return [pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=gaps[name])) if name in gaps else name for name in known]


@pytest.fixture(scope="module")
def buckets() -> Iterator[dict[str, TestBucket]]:
    made: dict[str, TestBucket] = {}
    yield made
    for bucket in made.values():
        bucket.close()


@pytest.fixture(params=servers.s3_endpoints())
def bucket(request: pytest.FixtureRequest, buckets: dict[str, TestBucket]) -> TestBucket:
    name: str = request.param
    if name not in buckets:
        buckets[name] = TestBucket(servers.endpoint(name))
    return buckets[name]


@pytest.fixture
def folder() -> str:
    return f"run/{secrets.token_hex(4)}"


@pytest.fixture
async def blobs(bucket: TestBucket, folder: str) -> AsyncIterator[S3Blobs]:
    opened = bucket.open(folder)
    yield opened
    await opened.aclose()


@pytest.fixture
def backdoor(bucket: TestBucket, folder: str) -> S3Backdoor:
    return S3Backdoor(bucket, folder)


def parts_of(backdoor: S3Backdoor, key: str) -> int:
    """How many parts an object was stored in; 1: it was one request."""
    tag = backdoor.bucket.client.head_object(Bucket=backdoor.bucket.name, Key=backdoor.full(key))["ETag"].strip('"')
    return int(tag.partition("-")[2] or 1)


# --- parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parts"), [(PART - 1, 1), (PART, 1), (PART + 1, 2), (2 * PART, 2), (2 * PART + 1, 3)])
async def test_what_is_larger_than_a_part_is_stored_in_parts_and_read_back_whole(
    blobs: S3Blobs, backdoor: S3Backdoor, size: int, parts: int
) -> None:
    data = os.urandom(size)
    key = addressed("t/u", data)
    await blobs.put(key, data)
    assert parts == parts_of(backdoor, key)
    assert data == await blobs.get(key)
    assert data[-3:] == await blobs.get(key, start=size - 3)
    assert data[PART - 2 : PART + 2] == await blobs.get(key, start=PART - 2, length=4)
    info = await blobs.head(key)
    assert info is not None
    assert size == info.size


async def test_several_large_objects_go_up_and_come_down_at_once(blobs: S3Blobs) -> None:
    objects = {addressed("t/u", data): data for data in (os.urandom(2 * PART + number) for number in range(3))}
    await asyncio.gather(*(blobs.put(key, data) for key, data in objects.items()))
    assert list(objects.values()) == await asyncio.gather(*map(blobs.get, objects))


async def test_a_large_upload_that_was_cancelled_leaves_no_half_object(blobs: S3Blobs, backdoor: S3Backdoor) -> None:
    data = os.urandom(4 * PART)
    for delay in (0.0, 0.005, 0.03):
        task = asyncio.create_task(blobs.put(addressed("t/u", data), data))
        await asyncio.sleep(delay)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for left in await keys_of(blobs.list()):
            assert hashlib.sha256(await backdoor.read(left) or b"").hexdigest() == left[-64:]


async def test_an_upload_is_whole_whose_end_was_asked_for_twice(
    blobs: S3Blobs, backdoor: S3Backdoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an answer that was lost on its way. The emulators complete a second time; others know the upload no more."""
    gone = Answer(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
    asked = blobs.bucket.ask

    async def twice(method: str, query: dict[str, str], **options: Any) -> Any:
        if method == "POST" and "uploadId" in query:
            if ended:
                await asked(method, query, **options)
            return gone
        return await asked(method, query, **options)

    monkeypatch.setattr(blobs.bucket, "ask", twice)
    data = os.urandom(2 * PART + 1)
    key = addressed("t/u", data)
    ended = False
    with pytest.raises(Unavailable):
        await blobs.put_stream(key, given([data]), len(data))
    assert await backdoor.count() == 0
    ended = True
    await blobs.put_stream(key, given([data]), len(data))
    assert 3 == parts_of(backdoor, key)
    assert data == await backdoor.read(key)


# --- creating -----------------------------------------------------------------------------------------------------------


async def test_of_many_that_create_one_key_exactly_one_does(blobs: S3Blobs, backdoor: S3Backdoor) -> None:
    assert isinstance(blobs, CreatesObjects)
    outcomes = await asyncio.gather(*(blobs.create("lease", b"%d" % number) for number in range(16)))
    assert 1 == outcomes.count(True)
    assert b"%d" % outcomes.index(True) == await backdoor.read("lease")


async def test_creating_leaves_what_is_there_alone(blobs: S3Blobs) -> None:
    assert await blobs.create("k", b"first")
    assert not await blobs.create("k", b"second")
    assert b"first" == await blobs.get("k")
    await blobs.delete(["k"])
    assert await blobs.create("k", b"third")


async def test_creating_checks_the_hash_too(blobs: S3Blobs) -> None:
    with pytest.raises(Validation):
        await blobs.create(addressed("t", b"right"), b"wrong")


# --- encryption and classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", endpoints(ENCRYPTION), indirect=True)
@pytest.mark.parametrize("streamed", [False, True], ids=["bytes", "stream"])
@pytest.mark.parametrize("size", [10, PART + 1], ids=["whole", "in parts"])
async def test_objects_are_encrypted_and_classed_as_the_url_says(bucket: TestBucket, folder: str, size: int, streamed: bool) -> None:
    data = os.urandom(size)
    key = addressed("t", data)
    wanted: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"sse": "s3"}, {"ServerSideEncryption": "AES256"}),
        ({"sse": "kms", "kms_key": "alias/palaver"}, {"ServerSideEncryption": "aws:kms"}),
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
    ]
    for options, expected in wanted:
        blobs = bucket.open(folder, **options)
        await (blobs.put_stream(key, given([data]), size) if streamed else blobs.put(key, data))
        told = bucket.client.head_object(Bucket=bucket.name, Key=S3Backdoor(bucket, folder).full(key))
        assert expected.items() <= told.items()
        assert ("kms_key" in options) == ("alias/palaver" in told.get("SSEKMSKeyId", ""))
        assert data == await blobs.get(key)
        await blobs.aclose()


# --- addresses for others -----------------------------------------------------------------------------------------------


def fetched(given: Presigned, data: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    told = dict(given.headers) | headers
    if data is not None:
        told.setdefault("content-type", "")
    request = urllib.request.Request(given.url, data=data, method=given.method, headers=told)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read(), {}


async def test_an_address_gives_the_object_as_an_attachment_no_browser_runs(blobs: S3Blobs) -> None:
    assert isinstance(blobs, Presigns)
    await blobs.put("t/u/page", b"<script>alert(1)</script>")
    given = await blobs.presign("t/u/page", filename='naïve";\r\n"x.html')
    status, body, headers = await asyncio.to_thread(fetched, given)
    assert (200, b"<script>alert(1)</script>") == (status, body)
    assert "application/octet-stream" == headers["content-type"]
    assert "attachment; filename*=UTF-8''na%C3%AFve%22%3B%0D%0A%22x.html" == headers["content-disposition"]


@pytest.mark.parametrize("bucket", endpoints(SIGNATURES), indirect=True)
async def test_an_address_that_was_changed_is_refused(blobs: S3Blobs) -> None:
    await blobs.put("k", b"secret")
    await blobs.put("l", b"other")
    given = await blobs.presign("k", expires_s=60)
    changed = [
        given.url[:-1] + ("0" if given.url[-1] != "0" else "1"),
        given.url.replace(path_of("k").replace("=", "%3D"), path_of("l").replace("=", "%3D")),
        given.url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        given.url.replace("octet-stream", "x-other"),
    ]
    assert given.url not in changed
    assert [403] * 4 == [(await asyncio.to_thread(fetched, Presigned("GET", url)))[0] for url in changed]
    assert 200 == (await asyncio.to_thread(fetched, given))[0]


@pytest.mark.parametrize("bucket", endpoints(SIGNATURES), indirect=True)
async def test_an_address_ends(blobs: S3Blobs) -> None:
    await blobs.put("k", b"secret")
    given = await blobs.presign("k", expires_s=1)
    deadline = time.monotonic() + 4
    status = 200
    while status == 200 and time.monotonic() < deadline:
        status = (await asyncio.to_thread(fetched, given))[0]
        await asyncio.sleep(0.2)
    assert 403 == status


async def test_an_address_to_store_takes_the_bytes_of_its_key(bucket: TestBucket, folder: str) -> None:
    blobs = bucket.open(folder, sse="s3")
    key = addressed("t/u", b"mine")
    given = await blobs.presign(key, method="PUT", content_type="text/plain")
    assert 200 == (await asyncio.to_thread(fetched, given, b"mine"))[0]
    assert b"mine" == await blobs.get(key)
    await blobs.aclose()


@pytest.mark.parametrize("bucket", endpoints(CHECKSUMS), indirect=True)
async def test_an_address_to_store_takes_no_other_bytes(blobs: S3Blobs) -> None:
    key = addressed("t/u", b"mine")
    given = await blobs.presign(key, method="PUT", content_type="text/plain")
    status, _, _ = await asyncio.to_thread(fetched, given, b"others'")
    assert 400 <= status < 500
    assert await blobs.head(key) is None


async def test_an_address_is_a_secret_and_its_repr_tells_nothing(blobs: S3Blobs) -> None:
    given = await blobs.presign("canary", method="GET")
    assert "Signature" in given.url
    assert "canary" not in repr(given)
    assert "Signature" not in repr(given)


@pytest.mark.parametrize("expires_s", [0, -1, 7 * 86_400 + 1])
async def test_an_address_works_for_a_week_at_most(blobs: S3Blobs, expires_s: int) -> None:
    with pytest.raises(Validation):
        await blobs.presign("k", expires_s=expires_s)


async def test_what_cannot_be_addressed_is_refused(blobs: S3Blobs) -> None:
    with pytest.raises(KeyTooLong):
        await blobs.presign("k" * 2_000)
    with pytest.raises(Validation):
        await blobs.presign("k", content_type="text/html\r\nx: y")
    await blobs.aclose()
    with pytest.raises(ConfigError):
        await blobs.presign("k")


# --- versions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("versions", "left"), [("keep", 4), ("purge", 0)])
async def test_with_purge_no_version_and_no_mark_of_a_deleted_object_stays(bucket: TestBucket, versions: str, left: int) -> None:
    own = TestBucket(bucket.at)
    own.client.put_bucket_versioning(Bucket=own.name, VersioningConfiguration={"Status": "Enabled"})
    blobs = own.open("p", versions=versions)
    for data in (b"1", b"2", b"3"):
        await blobs.put("k", data)
    await blobs.put("k-not", b"x")
    await blobs.delete(["k", "missing"])
    if versions == "purge":
        await blobs.delete(["k"])
    told = own.client.list_object_versions(Bucket=own.name, Prefix="p/k=o")
    assert left == len(told.get("Versions", [])) + len(told.get("DeleteMarkers", []))
    assert ["k-not"] == await keys_of(blobs.list())
    await blobs.aclose()
    own.close()


async def test_purging_an_object_leaves_what_others_put_beside_it(bucket: TestBucket, folder: str) -> None:
    blobs = bucket.open(folder, versions="purge")
    await blobs.put("k", b"x")
    beside = S3Backdoor(bucket, folder).full("k") + ".bak"
    bucket.client.put_object(Bucket=bucket.name, Key=beside, Body=b"theirs")
    await blobs.delete(["k"])
    assert [] == await keys_of(blobs.list())
    assert b"theirs" == bucket.client.get_object(Bucket=bucket.name, Key=beside)["Body"].read()
    await blobs.aclose()


async def test_an_object_deleted_before_purging_was_asked_for_is_purged_by_its_key(bucket: TestBucket) -> None:
    own = TestBucket(bucket.at)
    own.client.put_bucket_versioning(Bucket=own.name, VersioningConfiguration={"Status": "Enabled"})
    keeping, purging = own.open("p"), own.open("p", versions="purge")
    await keeping.put("k", b"x")
    await keeping.delete(["k"])
    await purging.delete(["k"])
    told = own.client.list_object_versions(Bucket=own.name)
    assert ([], []) == (told.get("Versions", []), told.get("DeleteMarkers", []))
    await keeping.aclose()
    await purging.aclose()
    own.close()
