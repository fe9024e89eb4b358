"""What the tests of S3 share: a bucket on an endpoint, and a way to it that is not ours (botocore's client)."""

from __future__ import annotations

import secrets
from typing import Any

from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from palaver.blobs.paths import path_of
from palaver.blobs.s3 import S3Blobs
from palaver.connections.aws_credentials import Credentials
from tests.servers import Endpoint


def client(at: Endpoint) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3})
    return Session().create_client(
        "s3",
        region_name=at.region,
        endpoint_url=at.url,
        aws_access_key_id=at.access_key,
        aws_secret_access_key=at.secret_key,
        aws_session_token=at.session_token or None,
        config=config,
    )


def make_bucket(s3: Any, name: str) -> None:
    try:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidLocationConstraint":
            raise
        s3.create_bucket(Bucket=name)  # a server that knows no regions


class TestBucket:
    """A bucket of the tests on one endpoint; everything in it goes with it."""

    __test__ = False

    def __init__(self, at: Endpoint) -> None:
        self.at, self.name, self.client = at, f"palaver-{secrets.token_hex(8)}", client(at)
        make_bucket(self.client, self.name)

    def url(self, prefix: str = "", **options: str) -> str:
        told = {"region": self.at.region, "endpoint": self.at.url} | options
        return f"s3://{self.name}/{prefix}?" + "&".join(f"{name}={value}" for name, value in told.items())

    def open(self, prefix: str = "", **options: str) -> S3Blobs:
        return self.open_as(credentials_of(self.at), prefix, **options)

    def open_as(self, credentials: Credentials, prefix: str = "", **options: str) -> S3Blobs:
        return S3Blobs(self.url(prefix, **options), credentials=credentials, environ={})

    def close(self) -> None:
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        for page in pages:
            entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
            if entries:
                named = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
                self.client.delete_objects(Bucket=self.name, Delete={"Objects": named})
        self.client.delete_bucket(Bucket=self.name)


def credentials_of(at: Endpoint) -> Credentials:
    return Credentials(at.access_key, at.secret_key, at.session_token or None)


class S3Backdoor:
    def __init__(self, bucket: TestBucket, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix

    def full(self, key: str) -> str:
        return f"{self.prefix}/{path_of(key)}" if self.prefix else path_of(key)

    async def read(self, key: str) -> bytes | None:
        try:
            return bytes(self.bucket.client.get_object(Bucket=self.bucket.name, Key=self.full(key))["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise

    async def write(self, key: str, data: bytes) -> None:
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=self.full(key), Body=data)

    async def count(self) -> int:
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name, Prefix=self.prefix + "/")
        uploads = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name, Prefix=self.prefix + "/").get("Uploads", [])
        return len(uploads) + sum(int(page.get("KeyCount", 0)) for page in pages)
