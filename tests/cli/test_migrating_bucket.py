"""`palaver migrate` makes and sets the bucket of a stack as it makes its tables: planned, applied, and then nothing is left."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import servers
from tests.cli.conftest import Palaver
from tests.engines.s3 import client
from tests.servers import Endpoint

MODULE = """
from typing import Annotated
from pydantic import JsonValue
from palaver import Blob, Entity, Expires, Expiry, InstantMs, Key, Schema, days


def kept(for_days, version):
    class Call(Entity, table="calls"):
        id: str
        sent: InstantMs
        expires: Annotated[Expiry | None, Expires(after=days(2), of="sent")] = None
        body: Annotated[JsonValue, Blob("calls/{id}", keep=days(for_days))] = None
        key = Key("id")

    return Schema("calls", [Call], version=version)


V1, V2 = kept(20, 1), kept(5, 2)
"""
FOR_THE_BUCKET = [
    "bucket {0}",
    "bucket {0} is closed to the public",
    "bucket {0} encrypts with AES256",
    "bucket {0} ends broken-off uploads after 7 days and versions of deleted objects after 20 below live/",
]
Urls = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def calls(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (elsewhere / "calls_app.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.delitem(sys.modules, "calls_app", raising=False)
    yield
    monkeypatch.delitem(sys.modules, "calls_app", raising=False)


def used(endpoint: Endpoint, patch: pytest.MonkeyPatch) -> Endpoint:
    for name, value in endpoint.environment.items():
        patch.setenv(name, value)
    return endpoint


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    return used(servers.ministack().endpoint, monkeypatch)


def url_of(at: Endpoint, bucket: str, below: str = "live", **options: str) -> str:
    """The URL of an empty DynamoDB stack that keeps its objects in a bucket."""
    told = "&".join(f"{name}={value}" for name, value in {"region": at.region, "endpoint": at.url, **options}.items())
    return f"dynamodb://{at.region}/m{secrets.token_hex(4)}-?endpoint={at.url}&blobs={quote(f's3://{bucket}/{below}?{told}', safe='')}"


def named() -> str:
    return f"palaver-{secrets.token_hex(8)}"


def settings(at: Endpoint, bucket: str) -> Any:
    s3 = client(at)
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return (
        sorted(rules, key=lambda rule: str(rule["ID"])),
        s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"],
        s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"],
    )


def test_the_bucket_is_planned_made_and_then_nothing_is_left(palaver: Palaver, at: Endpoint) -> None:
    bucket = named()
    of = ("--schema", "calls_app:V1", "-u", url_of(at, bucket))
    wanted = [words.format(bucket) for words in FOR_THE_BUCKET]
    status = palaver(*of, "migrate", "status")
    assert (7, wanted) == (status.code, status.json["pending"][:4])
    assert 7 == palaver(*of, "migrate", "plan", "-o", "plan.json").code

    applied = palaver(*of, "migrate", "apply", "plan.json")
    assert (0, wanted) == (applied.code, applied.json["steps"][:4]), applied.err

    again = palaver(*of, "migrate", "status")
    assert (0, [], []) == (again.code, again.json["pending"], again.json["unseen"])
    assert wanted == again.json["applied"][0]["steps"][:4]
    plan = palaver(*of, "migrate", "plan")
    assert (0, []) == (plan.code, plan.json["steps"])
    assert {True} == set(settings(at, bucket)[2].values())


def test_a_bucket_that_was_migrated_equals_one_made_fresh(palaver: Palaver, at: Endpoint) -> None:
    migrated, fresh = named(), named()
    url = url_of(at, migrated)
    assert 0 == palaver("--schema", "calls_app:V1", "-u", url, "migrate", "apply").code
    plan = palaver("--schema", "calls_app:V2", "-u", url, "migrate", "plan")
    assert (7, [FOR_THE_BUCKET[-1].format(migrated).replace("after 20", "after 5")]) == (plan.code, plan.json["steps"])
    assert 0 == palaver("--schema", "calls_app:V2", "-u", url, "migrate", "apply").code
    assert 0 == palaver("--schema", "calls_app:V2", "-u", url_of(at, fresh), "migrate", "apply").code
    assert settings(at, fresh) == settings(at, migrated)
    assert 0 == palaver("--schema", "calls_app:V2", "-u", url, "migrate", "status").code


def test_rules_of_others_stay_and_two_stacks_share_a_bucket(palaver: Palaver, at: Endpoint) -> None:
    bucket = named()
    one, other = url_of(at, bucket), url_of(at, bucket, "test")
    assert 0 == palaver("--schema", "calls_app:V1", "-u", one, "migrate", "apply").code
    assert 0 == palaver("--schema", "calls_app:V2", "-u", other, "migrate", "apply").code
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    s3 = client(at)
    rules = [*s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"], theirs]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    for schema, url in (("V1", one), ("V2", other)):
        assert 0 == palaver("--schema", f"calls_app:{schema}", "-u", url, "migrate", "status").code
    assert 0 == palaver("--schema", "calls_app:V2", "-u", one, "migrate", "apply").code
    kept = {rule["ID"]: rule for rule in settings(at, bucket)[0]}
    assert theirs["Expiration"] == kept["theirs"]["Expiration"]
    assert {5} == {rule["NoncurrentVersionExpiration"]["NoncurrentDays"] for name, rule in kept.items() if "deleted-objects" in name}
    assert 5 == len(kept)


def test_settings_that_may_not_be_seen_are_named_and_left_alone(palaver: Palaver, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli.test_doctor_dynamodb import a_user

    endpoint = used(servers.guarded_ministack().endpoint, monkeypatch)
    of = ("--schema", "calls_app:V1", "-u", url_of(endpoint, bucket := named()))
    assert 0 == palaver(*of, "migrate", "apply").code
    user = a_user(endpoint, "*", service="dynamodb")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["SecretAccessKey"])
    status = palaver(*of, "migrate", "status")
    assert (0, []) == (status.code, status.json["pending"])
    (unseen,) = status.json["unseen"]
    assert unseen.startswith(f"the settings of bucket {bucket}: ")
    assert f"? the settings of bucket {bucket}" in palaver("--human", *of, "migrate", "plan").out


def test_a_plan_for_one_bucket_is_for_no_other(palaver: Palaver, at: Endpoint) -> None:
    one = ("--schema", "calls_app:V1", "-u", url_of(at, named()))
    assert 7 == palaver(*one, "migrate", "plan", "-o", "plan.json").code
    other = named()
    refused = palaver("--schema", "calls_app:V1", "-u", url_of(at, other), "migrate", "apply", "plan.json")
    assert 7 == refused.code
    assert "which the URL does not name" in refused.problem["detail"]
    assert other not in [found["Name"] for found in client(at).list_buckets()["Buckets"]]


def test_a_bucket_of_somebody_else_ends_it_before_a_table_is_made(palaver: Palaver, at: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.blobs.s3 import S3Blobs
    from palaver.errors import ConfigError

    async def taken(self: S3Blobs, schema: object, part: str) -> None:
        raise ConfigError("Somebody else has a bucket of this name.", hint="Names are shared by all accounts: choose another.")

    of = ("--schema", "calls_app:V1", "-u", url_of(at, named()))
    with monkeypatch.context() as patch:
        patch.setattr(S3Blobs, "prepare", taken)
        refused = palaver(*of, "migrate", "apply")
    assert "Somebody else has a bucket" in refused.problem["detail"]
    status = palaver(*of, "migrate", "status").json
    assert (False, []) == (status["under_way"], status["applied"])
    assert 0 == palaver(*of, "migrate", "apply").code


def test_a_copy_into_an_empty_stack_makes_its_bucket(palaver: Palaver, at: Endpoint) -> None:
    source, target = url_of(at, named()), url_of(at, bucket := named())
    assert 0 == palaver("--schema", "calls_app:V1", "-u", source, "migrate", "apply").code
    copied = palaver("--schema", "calls_app:V1", "copy", source, target, "--verify")
    assert 0 == copied.code, copied.err
    assert 2 == len(settings(at, bucket)[0])
    assert 0 == palaver("--schema", "calls_app:V1", "-u", target, "migrate", "status").code
