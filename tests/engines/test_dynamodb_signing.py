"""Facts about signatures, endpoints and credentials, with botocore as the oracle and real servers at the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials as BotoCredentials  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from palaver.connections import aws_credentials
from palaver.connections.aws_credentials import ResolvedCredentials, credential_source
from palaver.connections.dynamodb import ConditionalCheckFailed, Credentials, DynamoClient, TransactionCancelled
from palaver.connections.dynamodb_endpoints import Endpoint, endpoints
from palaver.connections.dynamodb_signing import Signer, signing_key
from palaver.errors import ConfigError, NotProvisioned, Unauthenticated, Validation
from tests.engines.dynamo_script import Request, failed, ok, scripted

# --- signatures ---------------------------------------------------------------------------------------------------------


def test_the_signing_key_is_the_one_aws_publishes() -> None:
    key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def expected(monkeypatch: pytest.MonkeyPatch, url: str, region: str, headers: dict[str, str], body: bytes, keys: Credentials) -> str:
    """Return the Authorization header botocore computes for the same request at the time its x-amz-date says."""
    moment = datetime.strptime(headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: moment.replace(tzinfo=None))
    sent = {name: headers[name] for name in ("content-type", "x-amz-target")}
    request = AWSRequest("POST", url, sent, body)
    request.context["signing"] = {}
    SigV4Auth(BotoCredentials(keys.access_key, keys.secret_key, keys.session_token), "dynamodb", region).add_auth(request)
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("seed", range(40))
def test_a_signature_is_botocores(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    region = chance.choice(["eu-west-1", "us-gov-west-1", "cn-north-1"])
    url = chance.choice(["http://127.0.0.1:8000", "https://dynamodb.eu-west-1.amazonaws.com", "http://localhost", "https://[::1]:4566"])
    endpoint, _ = endpoints(region, url, {})
    signer = Signer(endpoint, region, "DynamoDB_20120810")
    many = [Credentials(f"AKID{number}", f"s/+={number}" * 9, chance.choice([None, f"token/+={number}"])) for number in range(2)]
    second = chance.randrange(1_600_000_000, 1_900_000_000)
    # One signer over seconds, days and credentials: what it keeps must never outlive them.
    for _ in range(12):
        second += chance.choice([0, 0, 1, 86_400, -86_400])
        keys, body = chance.choice(many), chance.randbytes(chance.choice([0, 1, 100, 5000]))
        lines = signer.head("PutItem", body, keys, second).decode().split("\r\n")
        assert ("POST / HTTP/1.1", ["", ""]) == (lines[0], lines[-2:])
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        assert (str(len(body)), urlsplit(url).netloc) == (headers["content-length"], headers["host"])
        assert keys.session_token == headers.get("x-amz-security-token")
        assert datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ") == headers["x-amz-date"]
        assert expected(monkeypatch, url, region, headers, body, keys) == headers["authorization"]


async def test_a_server_that_checks_signatures_tells_a_wrong_secret_from_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Credentials("AKIDEXAMPLE", "the right secret".replace(" ", "-"))

    async def check(request: Request, writer: asyncio.StreamWriter) -> None:
        url = f"http://{request.headers['host']}"
        good = request.headers["authorization"] == expected(monkeypatch, url, "eu-west-1", request.headers, request.body, right)
        await (ok({"Item": {}}) if good else failed("InvalidSignatureException", message="canary"))(request, writer)

    async with scripted(check) as script:
        for secret, good in (("the-right-secret", True), ("canary-wrong-secret", False)):
            client = await DynamoClient.open("eu-west-1", endpoint=script.endpoint, credentials=Credentials("AKIDEXAMPLE", secret))
            try:
                if good:
                    assert {"Item": {}} == await client.call("GetItem", {"TableName": "t"})
                else:
                    with pytest.raises(Unauthenticated) as caught:
                        await client.call("GetItem", {"TableName": "t"})
                    assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.context}"
            finally:
                await client.aclose()
        assert len(script.requests) == 2


# --- endpoints ----------------------------------------------------------------------------------------------------------


def test_every_regions_endpoints_are_botocores() -> None:
    session = Session()
    seen = 0
    for service, index in (("dynamodb", 0), ("dynamodbstreams", 1)):
        resolver = session.create_client(
            service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="y"
        )._ruleset_resolver  # the rules that every AWS SDK follows
        for partition in session.get_available_partitions():
            for region in session.get_available_regions(service, partition):
                if region == "local":
                    continue
                rules = {"Region": region, "UseDualStack": False, "UseFIPS": False}
                if service == "dynamodb":
                    rules["AccountIdEndpointMode"] = "disabled"
                url = resolver._provider.resolve_endpoint(**rules).url
                assert f"https://{endpoints(region, None, {})[index].host}" == url, region
                seen += 1
    assert seen > 60


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "http://", "http://h:99999", "http://h/path", "http://h?q=1", "http://user:canary@h", "http://h#f", "//h:1"]
)
def test_an_endpoint_that_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoints("eu-west-1", url, {})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("region", ["", "eu west 1", "eu-west-1.evil.example", "eu-west-1/x", "EU-WEST-1", "local"])
def test_only_a_region_becomes_a_host_name(region: str) -> None:
    with pytest.raises(ConfigError):
        endpoints(region, None, {})


def test_the_environments_endpoints_are_followed_unless_told_not_to() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_DYNAMODB": "https://d"}
    assert (Endpoint("d", 443, True), Endpoint("h", 1, False)) == endpoints("eu-west-1", None, environ)
    assert (Endpoint("e", 80, False),) * 2 == endpoints("eu-west-1", "http://e", environ)
    own, streams = endpoints("eu-west-1", None, {**environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"})
    assert ("dynamodb.eu-west-1.amazonaws.com", "streams.dynamodb.eu-west-1.amazonaws.com") == (own.host, streams.host)


# --- credentials --------------------------------------------------------------------------------------------------------


async def test_credentials_given_come_before_the_environment_and_the_environment_before_files(tmp_path: Path) -> None:
    given = Credentials("given", "x")
    environ = {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "y", "AWS_SESSION_TOKEN": "z", "AWS_PROFILE": "p"}
    assert (await credential_source(given, environ, "eu-west-1")).current() is given
    found = (await credential_source(None, environ, "eu-west-1")).current()
    assert ("env", "y", "z") == (found.access_key, found.secret_key, found.session_token)
    with pytest.raises(ConfigError, match="only one"):
        await credential_source(None, {"AWS_ACCESS_KEY_ID": "env"}, "eu-west-1")


@pytest.mark.parametrize("bad", [("", "x"), ("a", ""), ("a\r\nx: y", "x"), ("a b", "x"), ("ä", "x"), ("a", "x\n")])
def test_credentials_that_would_break_a_header_are_refused(bad: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        Credentials(*bad)


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Point botocore to files of the test alone."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def write(config: str, credentials: str) -> None:
        (tmp_path / "config").write_text(config)
        (tmp_path / "credentials").write_text(credentials)

    return write


async def test_a_profile_is_read_by_botocore(profiles: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    profiles("", "[default]\naws_access_key_id = D\naws_secret_access_key = x\n[other]\naws_access_key_id = O\naws_secret_access_key = y\n")
    assert (await credential_source(None, {}, "eu-west-1")).current().access_key == "D"
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert (await credential_source(None, {}, "eu-west-1")).current().access_key == "O"
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(ConfigError):
        await credential_source(None, {}, "eu-west-1")


async def test_no_credentials_anywhere_is_a_configuration_error(profiles: Callable[[str, str], None]) -> None:
    profiles("", "")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        await credential_source(None, {}, "eu-west-1")


async def test_a_source_that_fails_is_named_without_what_it_printed(profiles: Callable[[str, str], None]) -> None:
    profiles("[default]\ncredential_process = sh -c 'echo canary; echo canary >&2; exit 1'\n", "")
    with pytest.raises(Unauthenticated) as caught:
        await credential_source(None, {}, "eu-west-1")
    assert "canary" not in f"{caught.value!r} {caught.value}"


def process(tmp_path: Path, name: str, expires: str) -> str:
    answer = {"Version": 1, "AccessKeyId": name, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": expires}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    return f"[default]\ncredential_process = cat {tmp_path / 'answer.json'}\n"


async def test_expiring_credentials_are_renewed_in_the_background_before_the_end(
    profiles: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles(process(tmp_path, "first", datetime.fromtimestamp(datetime.now(UTC).timestamp() + 60, UTC).isoformat()), "")
    source = await credential_source(None, {}, "eu-west-1")
    first = source.current()
    assert first.access_key == "first"
    process(tmp_path, "second", "2099-01-01T00:00:00Z")
    monkeypatch.setattr(aws_credentials, "_LOOK_S", 0.0)
    source._look_at = 0.0  # type: ignore[attr-defined]
    assert source.current() is first  # never waits
    for _ in range(200):
        await asyncio.sleep(0.01)
        if source.current().access_key == "second":
            break
    assert source.current().access_key == "second"
    await source.aclose()


async def test_a_call_refused_for_expired_credentials_is_signed_again_with_new_ones(
    profiles: Callable[[str, str], None], tmp_path: Path
) -> None:
    profiles(process(tmp_path, "first", "2098-01-01T00:00:00Z"), "")

    async def picky(request: Request, writer: asyncio.StreamWriter) -> None:
        answer = ok({"Item": {}}) if "Credential=second/" in request.headers["authorization"] else failed("ExpiredTokenException")
        await answer(request, writer)

    async with scripted(picky) as script:
        client = await DynamoClient.open("eu-west-1", endpoint=script.endpoint)
        try:
            with pytest.raises(Unauthenticated):
                await client.call("GetItem", {"TableName": "t"})
            assert len(script.requests) == 1
            process(tmp_path, "second", "2099-01-01T00:00:00Z")
            found = await asyncio.gather(*(client.call("PutItem", {"TableName": "t"}, idempotent=False) for _ in range(5)))
            assert [{"Item": {}}] * 5 == found
        finally:
            await client.aclose()


async def test_equal_credentials_do_not_replace_the_signers_key(profiles: Callable[[str, str], None], tmp_path: Path) -> None:
    profiles(process(tmp_path, "first", "2099-01-01T00:00:00Z"), "")
    source = await ResolvedCredentials.find("eu-west-1")
    before = source.current()
    assert await source.renew(before) is False
    assert source.current() is before


# --- real servers -------------------------------------------------------------------------------------------------------


async def _round(client: DynamoClient, table: str, transactions: bool) -> None:
    key = {"AttributeName": "k", "KeyType": "HASH"}
    await client.call(
        "CreateTable",
        {
            "TableName": table,
            "KeySchema": [key],
            "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        },
    )
    for _ in range(100):
        if (await client.call("DescribeTable", {"TableName": table}))["Table"]["TableStatus"] == "ACTIVE":
            break
        await asyncio.sleep(0.05)
    items = [{"k": {"S": f"key {number}"}, "text": {"S": "ü" * number}} for number in range(30)]
    await asyncio.gather(*(client.call("PutItem", {"TableName": table, "Item": item}) for item in items))
    found = await client.batch_get({table: {"Keys": [{"k": item["k"]} for item in items], "ConsistentRead": True}})
    assert sorted(items, key=str) == sorted(found[table], key=str)
    await client.batch_write({table: [{"DeleteRequest": {"Key": {"k": item["k"]}}} for item in items[5:]]})
    assert (await client.call("Scan", {"TableName": table, "ConsistentRead": True}))["Count"] == 5
    absent = {"TableName": table, "Item": items[0], "ConditionExpression": "attribute_not_exists(k)"}
    with pytest.raises(ConditionalCheckFailed):
        await client.call("PutItem", absent)
    with pytest.raises(Validation):
        await client.call("PutItem", {"TableName": table, "Item": {"k": {"S": ""}}})
    with pytest.raises(NotProvisioned):
        await client.call("GetItem", {"TableName": table + "-missing", "Key": {"k": {"S": "x"}}})
    if transactions:
        with pytest.raises(TransactionCancelled) as caught:
            await client.call("TransactWriteItems", {"TransactItems": [{"Put": absent}]}, idempotent=False)
        assert [reason.code for reason in caught.value.reasons] == ["ConditionalCheckFailed"]


@pytest.mark.parametrize("name", ["ministack", "moto", "dynalite"])
async def test_a_server_understands_what_is_sent(name: str, request: pytest.FixtureRequest) -> None:
    server: Any = request.getfixturevalue(name)
    client = await DynamoClient.open("eu-west-1", endpoint=server.url, credentials=Credentials("AKIDEXAMPLE", "secret"))
    try:
        await _round(client, f"client-{random.randrange(10**9)}", name != "dynalite")
    finally:
        await client.aclose()
