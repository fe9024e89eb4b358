"""A bucket is made, set and checked; a database keeps its large values in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import pytest
from pydantic import JsonValue

from palaver import Blob, Entity, Expires, Expiry, InstantMs, Key, Schema, days, now, open_sync
from palaver.blobs.s3 import S3Blobs
from palaver.blobs.s3_bucket import BucketSettings, check_bucket, provision_bucket
from palaver.bucket_rules import bucket_rules
from palaver.clock import ManualClock
from palaver.errors import NotProvisioned
from palaver.testing.blobs import keys_of
from tests import servers
from tests.engines.s3 import client, credentials_of, make_bucket
from tests.servers import Endpoint


class Call(Entity, table="calls"):
    id: str
    sent: InstantMs
    expires: Annotated[Expiry | None, Expires(after=days(7), of="sent")] = None
    response: Annotated[JsonValue, Blob("responses/{id}", inline=1_024, keep=days(20))] = None
    key = Key("id")


SCHEMA = Schema("calls", [Call])
RULES = bucket_rules(SCHEMA, prefix="bot", archive_class="GLACIER_IR")


# With Ceph a bucket is made by hand: once its public access is blocked, its owner may not write into it either.
@pytest.fixture(params=[name for name in servers.s3_endpoints() if name != "radosgw"])
def at(request: pytest.FixtureRequest) -> Endpoint:
    return servers.endpoint(request.param)


@pytest.fixture
def name(at: Endpoint) -> Iterator[str]:
    made = f"palaver-{secrets.token_hex(8)}"
    yield made
    s3 = client(at)
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=made):
        for entry in page.get("Versions", []) + page.get("DeleteMarkers", []):
            s3.delete_object(Bucket=made, Key=entry["Key"], VersionId=entry["VersionId"])
    s3.delete_bucket(Bucket=made)


def blobs_of(at: Endpoint, name: str, **options: str) -> S3Blobs:
    told = {"region": at.region, "endpoint": at.url} | options
    url = f"s3://{name}/bot?" + "&".join(f"{option}={value}" for option, value in told.items())
    return S3Blobs(url, credentials=credentials_of(at), environ={})


async def test_a_bucket_is_made_as_the_settings_say_and_made_once(at: Endpoint, name: str) -> None:
    blobs = blobs_of(at, name)
    settings = BucketSettings(RULES)
    with pytest.raises(NotProvisioned):
        await check_bucket(blobs.bucket, settings)
    assert await provision_bucket(blobs.bucket, settings)
    assert [] == await check_bucket(blobs.bucket, settings)
    assert not await provision_bucket(blobs.bucket, settings)
    s3 = client(at)
    assert at.region == s3.get_bucket_location(Bucket=name)["LocationConstraint"]
    assert {True} == set(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())
    rule = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert "AES256" == rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
    assert "Status" not in s3.get_bucket_versioning(Bucket=name)
    await blobs.aclose()


async def test_the_rules_arrive_as_they_were_derived(at: Endpoint, name: str) -> None:
    blobs = blobs_of(at, name)
    await provision_bucket(blobs.bucket, BucketSettings(RULES))
    rules = {rule["ID"]: rule for rule in client(at).get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
    assert {"palaver-abandoned-uploads-bot", "palaver-deleted-objects-bot", "palaver-archive-bot"} == set(rules)
    assert {"DaysAfterInitiation": 7} == rules["palaver-abandoned-uploads-bot"]["AbortIncompleteMultipartUpload"]
    assert 20 == rules["palaver-deleted-objects-bot"]["NoncurrentVersionExpiration"]["NoncurrentDays"]
    assert rules["palaver-deleted-objects-bot"]["Expiration"]["ExpiredObjectDeleteMarker"] is True
    assert [{"Days": 30, "StorageClass": "GLACIER_IR"}] == rules["palaver-archive-bot"]["Transitions"]
    assert {"bot/", "bot/archive/"} == {rule["Filter"]["Prefix"] for rule in rules.values()}
    await blobs.aclose()


async def test_versions_are_kept_where_that_is_chosen_and_can_be_given_up(at: Endpoint, name: str) -> None:
    blobs = blobs_of(at, name)
    await provision_bucket(blobs.bucket, BucketSettings(RULES, versioned=True))
    assert "Enabled" == client(at).get_bucket_versioning(Bucket=name)["Status"]
    assert [] == await check_bucket(blobs.bucket, BucketSettings(RULES, versioned=True))
    await provision_bucket(blobs.bucket, BucketSettings(RULES))
    assert "Enabled" == client(at).get_bucket_versioning(Bucket=name)["Status"]
    await provision_bucket(blobs.bucket, BucketSettings(RULES, versioned=False))
    assert "Suspended" == client(at).get_bucket_versioning(Bucket=name)["Status"]
    await blobs.aclose()


async def test_a_bucket_encrypts_with_the_key_the_url_names(at: Endpoint, name: str) -> None:
    blobs = blobs_of(at, name, sse="kms", kms_key="alias/palaver")
    await provision_bucket(blobs.bucket, BucketSettings())
    rule = client(at).get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    told = rule["ApplyServerSideEncryptionByDefault"]
    assert ("aws:kms", "alias/palaver", True) == (told["SSEAlgorithm"], told["KMSMasterKeyID"], rule["BucketKeyEnabled"])
    await blobs.aclose()


async def test_what_is_not_as_it_should_be_is_found(at: Endpoint, name: str) -> None:
    s3 = client(at)
    make_bucket(s3, name)
    s3.delete_public_access_block(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    blobs = blobs_of(at, name, sse="kms")
    found = {finding.name for finding in await check_bucket(blobs.bucket, BucketSettings(RULES))}
    assert {"public", "encryption", "rules"} == found
    kept = {finding.name for finding in await check_bucket(blobs.bucket, BucketSettings())}
    assert {"public", "encryption", "versions"} == kept
    await provision_bucket(blobs.bucket, BucketSettings(RULES))
    assert [] == await check_bucket(blobs.bucket, BucketSettings(RULES))
    await blobs.aclose()


async def test_a_database_keeps_its_large_values_in_the_bucket(
    at: Endpoint, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in at.environment.items():
        monkeypatch.setenv(variable, value)
    blobs = blobs_of(at, name)
    await provision_bucket(blobs.bucket, BucketSettings(RULES))
    url = f"sqlite:///{tmp_path}/calls.db?blobs=" + quote(f"s3://{name}/bot?endpoint={at.url}", safe="")
    response: JsonValue = {"matches": ["Arsenal 2–0"] * 2_000}
    clock = ManualClock(now())
    with open_sync(url, schema=SCHEMA, clock=clock) as db:
        db.create(Call(id="1", sent=now(), response=response))
        assert response == db.get(Call.at("1")).response
        assert ["-/-/responses/1"] == [key.rpartition("/")[0] for key in await keys_of(blobs.list())]
        db.delete(Call.at("1"))
        clock.advance(days(1))
        db.settle()
        db.sweep()
        assert [] == await keys_of(blobs.list())
    await blobs.aclose()
