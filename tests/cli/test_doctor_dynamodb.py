"""`palaver doctor` on DynamoDB and S3: what is missing is taken away from a real emulator first."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session  # type: ignore[import-untyped]

import palaver
from palaver.blobs.s3 import S3Blobs
from palaver.blobs.s3_bucket import BucketSettings, provision_bucket
from palaver.blobs.s3_doctor import Doctor as BucketDoctor
from palaver.blueprints.baller import SCHEMA
from palaver.lifecycle.copy_ends import End, exists_as_declared
from palaver.observing import Finding
from tests import servers
from tests.cli.conftest import Palaver


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture(params=["ministack", "moto"])
def endpoint(request: pytest.FixtureRequest) -> servers.Endpoint:
    return servers.endpoint(request.param)


@pytest.fixture
def url(endpoint: servers.Endpoint, tmp_path: Path) -> str:
    beside = f"blobs=file:{tmp_path}/blobs&search=sqlite:///{tmp_path}/search.db"
    return f"dynamodb://eu-central-1/{secrets.token_hex(4)}-?endpoint={endpoint.url}&{beside}"


@pytest.fixture
async def end(url: str) -> AsyncIterator[End]:
    async with End.open(url, SCHEMA) as end:
        await exists_as_declared(end, provision=True, what="target")
        yield end


async def found(end: End) -> dict[str, Finding]:
    return {finding.check: finding for finding in await end.records.diagnose()}  # type: ignore[attr-defined]


def test_a_sound_stack_is_well_but_for_recovery(palaver: Palaver, url: str) -> None:
    async def make() -> None:
        async with palaver_open(f"{url}&recovery=true"):
            pass

    asyncio.run(make())
    ran = palaver("doctor", "-u", url, "--blueprint", "baller")
    checks = {check["check"]: check for check in ran.json["checks"]}
    assert {"service", "tables", "indexes", "streams", "recovery", "billing", "rights", "schema", "clock"} <= set(checks)
    assert {"ok"} == {check["level"] for check in ran.json["checks"]}, ran.json
    assert 0 == ran.code
    assert "test" not in checks["service"]["seen"]


def palaver_open(url: str) -> Any:
    return palaver.open(url, schema=SCHEMA, maintain=False, migrate=True)


def test_an_address_where_nobody_answers_is_told(palaver: Palaver) -> None:
    ran = palaver("doctor", "-u", "dynamodb://eu-central-1/x-?endpoint=http://127.0.0.1:1&timeout=1&blobs=memory:", "--blueprint", "baller")
    assert 2 == ran.code
    service = next(check for check in ran.json["checks"] if check["check"] == "service")
    assert "fail" == service["level"]


def test_an_empty_region_is_told(palaver: Palaver, url: str) -> None:
    ran = palaver("doctor", "-u", url, "--blueprint", "baller")
    assert "no table of this prefix" in next(check for check in ran.json["checks"] if check["check"] == "service")["seen"]


async def test_a_table_that_is_gone_is_missing(end: End) -> None:
    await end.records.client.call("DeleteTable", {"TableName": f"{end.records.prefix}baller-feedback"})  # type: ignore[attr-defined]
    tables = (await found(end))["tables"]
    assert ("fail", "Run `palaver migrate apply`.") == (tables.level, tables.fix)
    assert "baller-feedback" in tables.seen


async def test_a_stream_that_is_off_is_a_feed_that_stands_still(end: End) -> None:
    assert "ok" == (await found(end))["streams"].level
    body = {"TableName": f"{end.records.prefix}baller-messages", "StreamSpecification": {"StreamEnabled": False}}  # type: ignore[attr-defined]
    await end.records.client.call("UpdateTable", body)  # type: ignore[attr-defined]
    streams = (await found(end))["streams"]
    assert "fail" == streams.level
    assert "NEW_AND_OLD_IMAGES" in streams.fix
    assert "baller-messages" in streams.seen


async def test_tables_that_cannot_be_brought_back_are_told(end: End) -> None:
    recovery = (await found(end))["recovery"]
    assert "warn" == recovery.level
    assert "recovery=true" in recovery.fix


async def test_rights_that_lack_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator that checks policies: a user who may look and read, and neither write nor see streams."""
    endpoint = servers.guarded_ministack().endpoint
    for name, value in (("AWS_ACCESS_KEY_ID", endpoint.access_key), ("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)):
        monkeypatch.setenv(name, value)
    url = f"dynamodb://{endpoint.region}/{secrets.token_hex(4)}-?endpoint={endpoint.url}&blobs=memory:&search=sqlite:///{tmp_path}/s.db"
    async with End.open(url, SCHEMA) as end:
        await exists_as_declared(end, provision=True, what="target")
        assert "ok" == (await found(end))["rights"].level
    user = a_user(endpoint, "DescribeTable", "GetItem", "BatchGetItem", "Query", "Scan")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["SecretAccessKey"])
    async with End.open(url, SCHEMA) as end:
        findings = await found(end)
    assert "fail" == findings["rights"].level
    for action in ("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "DescribeStream"):
        assert f"dynamodb:{action}" in findings["rights"].seen
    assert "dynamodb:GetItem" not in findings["rights"].seen
    assert user["SecretAccessKey"] not in repr(findings)
    nobody = a_user(endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", nobody["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", nobody["SecretAccessKey"])
    async with End.open(url, SCHEMA) as end:
        (service,) = (await found(end)).values()
    assert ("fail", True) == (service.level, "may not describe tables" in service.seen)


def a_user(endpoint: servers.Endpoint, *actions: str, service: str = "dynamodb") -> dict[str, str]:
    """Return the keys of a new user with these rights."""
    iam = Session().create_client(
        "iam",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
    )
    name = f"user-{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    if actions:
        allowed = [{"Effect": "Allow", "Action": [f"{service}:{action}" for action in actions], "Resource": "*"}]
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": allowed}))
    key: dict[str, str] = iam.create_access_key(UserName=name)["AccessKey"]
    return key


async def test_looking_for_rights_writes_nothing(end: End) -> None:
    await found(end)
    answer = await end.records.client.call("Scan", {"TableName": f"{end.records.prefix}palaver_engine"})  # type: ignore[attr-defined]
    assert not [item for item in answer["Items"] if item["pk"]["S"] == "palaver-doctor"]


async def test_a_clock_that_differs_is_told(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(end.records.client), "skew_s", lambda self: -300.0)  # type: ignore[attr-defined]
    clock = (await found(end))["server clock"]
    assert ("warn", True) == (clock.level, "-300 s" in clock.seen)


# --- buckets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def bucket(endpoint: servers.Endpoint) -> AsyncIterator[S3Blobs]:
    blobs = S3Blobs(f"s3://palaver-{secrets.token_hex(6)}/below?endpoint={endpoint.url}&region=eu-central-1")
    yield blobs
    await blobs.aclose()


async def told(blobs: S3Blobs) -> dict[str, Finding]:
    return {finding.check: finding for finding in await BucketDoctor(blobs, blobs.bucket, blobs.place).diagnose()}


async def test_a_bucket_that_is_not_there_is_told(bucket: S3Blobs) -> None:
    findings = await told(bucket)
    assert ["bucket"] == list(findings)
    assert ("fail", True) == (findings["bucket"].level, "there is no bucket" in findings["bucket"].seen)


async def test_a_sound_bucket_is_well_and_left_as_it_was(bucket: S3Blobs) -> None:
    await provision_bucket(bucket.bucket, BucketSettings())
    findings = await told(bucket)
    assert {"ok"} == {finding.level for finding in findings.values()}, findings
    assert [] == [info async for info in bucket.list()]


async def test_rights_that_lack_in_a_bucket_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = servers.guarded_ministack().endpoint
    for name, value in (("AWS_ACCESS_KEY_ID", endpoint.access_key), ("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)):
        monkeypatch.setenv(name, value)
    url = f"s3://palaver-{secrets.token_hex(6)}/below?endpoint={endpoint.url}&region={endpoint.region}"
    blobs = S3Blobs(url)
    await provision_bucket(blobs.bucket, BucketSettings())
    await blobs.aclose()
    user = a_user(endpoint, "ListBucket", "GetObject", service="s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["SecretAccessKey"])
    blobs = S3Blobs(url)
    findings = await told(blobs)
    await blobs.aclose()
    rights = findings["bucket: rights"]
    assert ("fail", True) == (rights.level, "lack s3:PutObject" in rights.seen)
    assert "Allow s3:GetEncryptionConfiguration" in findings["bucket: settings"].fix


async def test_versions_kept_for_ever_and_doors_left_open_are_told(bucket: S3Blobs) -> None:
    await provision_bucket(bucket.bucket, BucketSettings(versioned=True, closed_to_public=False))
    findings = await told(bucket)
    assert {"bucket: public", "bucket: versions"} <= {name for name, finding in findings.items() if finding.level == "warn"}
