"""What an object is stored with, as the requests say it: in one, in parts, and by an address for somebody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from palaver.blobs.pieces import PART
from palaver.blobs.s3 import S3Blobs
from palaver.connections.aws_credentials import Credentials
from palaver.testing.blob_streams import given
from tests.engines.http_bucket import HttpBucket, served

Sent = list[tuple[str, dict[str, str]]]
SSE = "x-amz-server-side-encryption"
KEYS = f"{SSE}-bucket-key-enabled"


@pytest.fixture
def server() -> Iterator[tuple[str, Sent]]:
    """A server that takes everything, and what it was sent: how, and with which headers of S3."""
    sent: Sent = []

    class Bucket(HttpBucket):
        def do_PUT(self) -> None:
            self.take("part" if "partNumber=" in self.path else "whole")

        def do_POST(self) -> None:
            begins = "uploads" in self.path
            self.take("begin" if begins else "end", b"<R><UploadId>u</UploadId></R>" if begins else b"<R></R>")

        def take(self, how: str, body: bytes = b"") -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            sent.append((how, {name.lower(): value for name, value in self.headers.items() if name.lower().startswith(SSE)}))
            self.answer(body)

    with served(Bucket) as url:
        yield url, sent


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("sse=kms&kms_key=k", {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k", KEYS: "true"}),
        ("sse=kms", {SSE: "aws:kms", KEYS: "true"}),
        # Two layers take no key of the bucket.
        ("sse=kms-dsse&kms_key=k", {SSE: "aws:kms:dsse", f"{SSE}-aws-kms-key-id": "k"}),
        ("sse=s3", {SSE: "AES256"}),
        ("storage_class=STANDARD_IA", {}),
    ],
)
async def test_every_way_to_store_an_object_says_the_same_of_its_encryption(
    server: tuple[str, Sent], options: str, expected: dict[str, str]
) -> None:
    url, sent = server
    blobs = S3Blobs(f"s3://bucket?region=eu-central-1&endpoint={url}&{options}", credentials=Credentials("key", "secret"), environ={})
    large = bytes(PART + 1)

    await blobs.put("k", b"x")
    assert await blobs.create("k", b"x")
    await blobs.put_stream("k", given([b"x"]), 1)
    assert [("whole", expected)] * 3 == sent
    for streamed in (False, True):
        sent.clear()
        await (blobs.put_stream("k", given([large]), len(large)) if streamed else blobs.put("k", large))
        # A part takes no word of it: S3 refuses one that has.
        assert [("begin", expected), ("part", {}), ("part", {}), ("end", {})] == sent
    address = await blobs.presign("k", method="PUT")
    assert expected == {name: value for name, value in address.headers.items() if name.startswith(SSE)}
    await blobs.aclose()
