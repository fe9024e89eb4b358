"""Each way S3 fails is a named error that tells nothing about what is stored; what may be tried again is."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session  # type: ignore[import-untyped]

from palaver.blobs.pieces import PART
from palaver.blobs.s3 import S3Blobs
from palaver.blobs.s3_bucket import BucketSettings, check_bucket, provision_bucket
from palaver.connections.aws_credentials import Credentials
from palaver.errors import (
    ConfigError,
    Corruption,
    Forbidden,
    ItemTooLarge,
    NotProvisioned,
    OutcomeUnknown,
    PalaverError,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from palaver.testing.blobs import addressed, keys_of
from tests import servers
from tests.engines.dynamo_script import Act, cut, scripted, sent, silent
from tests.engines.s3 import TestBucket, client

CANARY = "canary"
SECRET = "canary-secret-key"
Verb = Callable[[S3Blobs], Awaitable[object]]
READS: dict[str, Verb] = {
    "get": lambda blobs: blobs.get(f"{CANARY}/k"),
    "head": lambda blobs: blobs.head(f"{CANARY}/k"),
    "list": lambda blobs: keys_of(blobs.list(CANARY)),
}
WRITES: dict[str, Verb] = {
    "put": lambda blobs: blobs.put(f"{CANARY}/k", b"x"),
    "parts": lambda blobs: blobs.put(f"{CANARY}/k", bytes(PART + 1)),
    "create": lambda blobs: blobs.create(f"{CANARY}/k", b"x"),
    "delete": lambda blobs: blobs.delete([f"{CANARY}/k"]),
}
VERBS = READS | WRITES


def opened(endpoint: str, *, bucket: str = "bucket", key: str = "AKIDCANARY", secret: str = SECRET, **options: str) -> S3Blobs:
    told = {"region": "eu-central-1", "endpoint": endpoint, "timeout": "2"} | options
    url = f"s3://{bucket}/p?" + "&".join(f"{name}={value}" for name, value in told.items())
    return S3Blobs(url, credentials=Credentials(key, secret), environ={})


async def failing(blobs: S3Blobs, verb: Verb) -> PalaverError:
    with pytest.raises(PalaverError) as caught:
        await verb(blobs)
    await blobs.aclose()
    told = f"{caught.value!r} {caught.value} {caught.value.context} {caught.value.__cause__} {blobs!r}"
    assert CANARY not in told.lower()
    return caught.value


def answered(status: int, code: str, times: int = 1) -> Act:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{CANARY}</Message><Resource>/{CANARY}</Resource></Error>".encode()
    return sent(f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def found(body: str) -> Act:
    return sent(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def stored() -> Act:
    return sent(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')


# --- real servers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("server", servers.s3_endpoints())
async def test_a_bucket_that_does_not_exist_is_not_provisioned(server: str, verb: str) -> None:
    at = servers.endpoint(server)
    blobs = opened(at.url, bucket=f"missing-{secrets.token_hex(6)}", key=at.access_key, secret=at.secret_key, region=at.region)
    assert isinstance(await failing(blobs, VERBS[verb]), NotProvisioned)


@pytest.mark.parametrize("verb", VERBS)
async def test_an_address_where_nobody_listens_is_unavailable(verb: str) -> None:
    begun = time.monotonic()
    assert isinstance(await failing(opened(f"http://127.0.0.1:{servers.free_port()}"), VERBS[verb]), Unavailable)
    assert time.monotonic() - begun < 20


async def test_a_server_that_comes_back_is_used_again() -> None:
    server = servers.start_moto()
    try:
        bucket = TestBucket(server.endpoint)
        blobs = bucket.open(timeout="1")
        await blobs.put("k", b"x")
        server.kill_9()
        with pytest.raises(Unavailable):
            await blobs.get("k")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await blobs.put("k", b"x")
        server.start()
        again = client(server.endpoint)
        again.create_bucket(Bucket=bucket.name, CreateBucketConfiguration={"LocationConstraint": server.endpoint.region})
        await blobs.put("k", b"y")
        assert b"y" == await blobs.get("k")
        await blobs.aclose()
    finally:
        server.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestBucket]:
    bucket = TestBucket(servers.guarded_ministack().endpoint)
    yield bucket
    bucket.close()


def iam(bucket: TestBucket) -> Any:
    at = bucket.at
    return Session().create_client(
        "iam", region_name=at.region, endpoint_url=at.url, aws_access_key_id=at.access_key, aws_secret_access_key=at.secret_key
    )


@pytest.fixture
def user(guarded: TestBucket) -> tuple[str, Credentials]:
    """Somebody with a key and without any right."""
    name = f"user-{secrets.token_hex(4)}"
    iam(guarded).create_user(UserName=name)
    key = iam(guarded).create_access_key(UserName=name)["AccessKey"]
    return name, Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def grant(bucket: TestBucket, name: str, *actions: str) -> None:
    rights = ", ".join(f'"s3:{action}"' for action in actions)
    whom = f'["arn:aws:s3:::{bucket.name}", "arn:aws:s3:::{bucket.name}/*"]'
    policy = f'{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Action": [{rights}], "Resource": {whom}}}]}}'
    iam(bucket).put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)


@pytest.mark.parametrize("verb", VERBS)
async def test_without_rights_everything_is_forbidden(guarded: TestBucket, user: tuple[str, Credentials], verb: str) -> None:
    assert isinstance(await failing(guarded.open_as(user[1], "p"), VERBS[verb]), Forbidden)


async def test_who_may_read_may_not_write(guarded: TestBucket, user: tuple[str, Credentials]) -> None:
    grant(guarded, user[0], "GetObject", "ListBucket")
    root, reader = guarded.open("q"), guarded.open_as(user[1], "q")
    await root.put("k", b"x")
    assert b"x" == await reader.get("k")
    assert ["k"] == await keys_of(reader.list())
    for verb in WRITES.values():
        with pytest.raises(Forbidden):
            await verb(reader)
    assert ["k"] == await keys_of(root.list())
    await root.aclose()
    await reader.aclose()


async def test_rights_lost_in_the_middle_are_forbidden_from_then_on(guarded: TestBucket, user: tuple[str, Credentials]) -> None:
    grant(guarded, user[0], "PutObject", "GetObject", "ListBucket")
    blobs = guarded.open_as(user[1], "r")
    await blobs.put("k", b"x")
    iam(guarded).delete_user_policy(UserName=user[0], PolicyName="p")
    assert isinstance(await failing(blobs, lambda blobs: blobs.put("l", b"x")), Forbidden)


async def test_who_may_not_look_at_a_bucket_cannot_check_or_make_one(guarded: TestBucket, user: tuple[str, Credentials]) -> None:
    blobs = guarded.open_as(user[1])
    for attempt in (check_bucket(blobs.bucket, BucketSettings()), provision_bucket(blobs.bucket, BucketSettings())):
        with pytest.raises(Forbidden):
            await attempt
    await blobs.aclose()


@pytest.mark.parametrize("verb", ["get", "list", "put", "parts", "create", "delete"])
async def test_a_key_nobody_knows_is_not_authenticated(guarded: TestBucket, verb: str) -> None:
    assert isinstance(await failing(guarded.open_as(Credentials("AKIDCANARY", SECRET)), VERBS[verb]), Unauthenticated)


# --- a server that plays a script ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "SignatureDoesNotMatch", Unauthenticated),
        (400, "ExpiredToken", Unauthenticated),
        (403, "RequestTimeTooSkewed", Unauthenticated),
        (403, "AccessDenied", Forbidden),
        (301, "PermanentRedirect", ConfigError),
        (400, "AuthorizationHeaderMalformed", ConfigError),
        (400, "KMS.DisabledException", NotProvisioned),
        (400, "KMS.NotFoundException", NotProvisioned),
        (400, "EntityTooLarge", ItemTooLarge),
        (507, "InsufficientStorage", StorageFull),
        (501, "NotImplemented", ConfigError),
        (400, "InvalidStorageClass", ConfigError),
    ],
)
async def test_what_s3_answers_is_an_error_of_ours(status: int, code: str, expected: type[PalaverError]) -> None:
    async with scripted(answered(status, code)) as script:
        error = await failing(opened(script.endpoint), VERBS["put"])
    assert expected is type(error)


async def test_an_archived_object_is_unavailable_and_says_so() -> None:
    async with scripted(answered(403, "InvalidObjectState")) as script:
        error = await failing(opened(script.endpoint), VERBS["get"])
    assert isinstance(error, Unavailable)
    assert "archive" in str(error)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (503, "ServiceUnavailable")])
@pytest.mark.parametrize("verb", ["get", "put"])
async def test_throttling_that_lasts_is_told_after_some_attempts(status: int, code: str, verb: str) -> None:
    async with scripted(answered(status, code)) as script:
        error = await failing(opened(script.endpoint), VERBS[verb])
        assert 2 <= len(script.requests) <= 8
    assert isinstance(error, Throttled)
    assert error.retryable


@pytest.mark.parametrize("act", [answered(503, "SlowDown"), answered(500, "InternalError"), cut], ids=["throttled", "internal", "cut"])
async def test_what_passes_is_tried_again(act: Act) -> None:
    async with scripted(act, stored()) as script:
        blobs = opened(script.endpoint)
        await blobs.put("k", b"x")
        await blobs.aclose()
        assert 2 == len(script.requests)


@pytest.mark.parametrize(("verb", "expected"), [("get", Unavailable), ("put", OutcomeUnknown), ("delete", OutcomeUnknown)])
@pytest.mark.parametrize("act", [cut, silent, answered(500, "InternalError")], ids=["cut", "silent", "internal"])
async def test_a_write_whose_answer_is_lost_has_an_unknown_outcome(act: Act, verb: str, expected: type[PalaverError]) -> None:
    async with scripted(act) as script:
        error = await failing(opened(script.endpoint, timeout="0.5"), VERBS[verb])
    assert expected is type(error)


async def test_a_batch_delete_that_failed_for_one_object_is_an_error() -> None:
    failed = "<DeleteResult><Error><Key>p/canary/k=o</Key><Code>AccessDenied</Code><Message>canary</Message></Error></DeleteResult>"
    listed = "<ListVersionsResult><Version><Key>p/canary/k=o</Key><VersionId>7</VersionId></Version></ListVersionsResult>"
    async with scripted(found(failed)) as script:
        assert isinstance(await failing(opened(script.endpoint), VERBS["delete"]), Forbidden)
    async with scripted(found(listed), found(failed)) as script:
        assert isinstance(await failing(opened(script.endpoint, versions="purge"), VERBS["delete"]), Forbidden)
    assert b"<VersionId>7</VersionId>" in script.requests[1].body


async def test_bytes_damaged_on_the_way_are_corruption() -> None:
    head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/5\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n"
    async with scripted(sent(f'{head}ETag: "x"\r\nContent-Length: 5\r\n\r\nwrong'.encode())) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(Corruption):
            await blobs.get(addressed("t", b"right"))
        await blobs.aclose()


async def test_rights_of_a_session_travel_with_the_request() -> None:
    async with scripted(stored()) as script:
        told = f"s3://bucket?region=eu-central-1&endpoint={script.endpoint}"
        blobs = S3Blobs(told, credentials=Credentials("AKID", SECRET, "the-token"), environ={})
        await blobs.put("k", b"x")
        await blobs.aclose()
    assert "the-token" == script.requests[0].headers["x-amz-security-token"]
    assert all(SECRET not in f"{request.headers}" for request in script.requests)


# --- where credentials come from ----------------------------------------------------------------------------------------


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AWS_") and "ENDPOINT" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return monkeypatch


async def put_at(endpoint: str) -> None:
    blobs = S3Blobs(f"s3://bucket?region=eu-central-1&endpoint={endpoint}")
    await blobs.put("k", b"x")
    await blobs.aclose()


async def test_credentials_come_from_the_environment(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT")
    clean.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with scripted(stored()) as script:
        await put_at(script.endpoint)
    assert "Credential=AKIDENVIRONMENT/" in script.requests[0].headers["authorization"]


async def test_credentials_come_from_a_profile(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[mine]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = {SECRET}\n", encoding="utf-8")
    clean.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    clean.setenv("AWS_PROFILE", "mine")
    async with scripted(stored()) as script:
        await put_at(script.endpoint)
    assert "Credential=AKIDPROFILE/" in script.requests[0].headers["authorization"]


async def test_credentials_come_from_a_container(clean: pytest.MonkeyPatch) -> None:
    body = f'{{"AccessKeyId": "AKIDCONTAINER", "SecretAccessKey": "{SECRET}", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}}'
    answer = sent(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    async with scripted(answer) as source, scripted(stored()) as script:
        clean.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source.endpoint}/role")
        await put_at(script.endpoint)
    assert "Credential=AKIDCONTAINER/" in script.requests[0].headers["authorization"]


async def test_without_credentials_that_is_what_is_said(clean: pytest.MonkeyPatch) -> None:
    async with scripted(stored()) as script:
        with pytest.raises(ConfigError, match="credentials"):
            await asyncio.wait_for(put_at(script.endpoint), 20)
        assert [] == script.requests
