"""Blobs in S3: the published suite on every server, then what S3 has that a folder has not."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from palaver.blob_ports import BlobStore
from palaver.blobs.s3 import S3Blobs
from palaver.testing.blobs import BlobBackdoor, BlobStoreTests
from tests import servers
from tests.engines.s3 import S3Backdoor, TestBucket


@pytest.fixture(scope="module", params=servers.s3_endpoints())
def bucket(request: pytest.FixtureRequest) -> Iterator[TestBucket]:
    made = TestBucket(servers.endpoint(request.param))
    yield made
    made.close()


@pytest.fixture
def folder() -> str:
    return f"run/{secrets.token_hex(4)}"


@pytest.fixture
async def blobs(bucket: TestBucket, folder: str) -> AsyncIterator[S3Blobs]:
    opened = bucket.open(folder)
    yield opened
    await opened.aclose()


@pytest.fixture
async def backdoor(bucket: TestBucket, folder: str) -> S3Backdoor:
    return S3Backdoor(bucket, folder)


class TestS3(BlobStoreTests):
    tick_s = 1.1

    @pytest.fixture
    async def blobs(self, bucket: TestBucket, folder: str) -> AsyncIterator[BlobStore]:
        opened = bucket.open(folder)
        yield opened
        await opened.aclose()

    @pytest.fixture
    async def backdoor(self, bucket: TestBucket, folder: str) -> BlobBackdoor:
        return S3Backdoor(bucket, folder)
