"""Signatures for S3 agree with botocore's."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials as BotoCredentials  # type: ignore[import-untyped]

from palaver.connections.aws_credentials import Credentials
from palaver.connections.s3_signing import encoded, presigned_query, signed_headers

SECOND = 1_790_000_123
QUERIES = [{}, {"lifecycle": ""}, {"prefix": "a=b/é c&d", "versions": "", "key-marker": "~x+y"}]
PATHS = ["/", "/bucket", "/bucket/a%3Db/c%21.-_~"]


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.fromtimestamp(SECOND, UTC).replace(tzinfo=None)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: moment)


def keys(chance: random.Random) -> Credentials:
    return Credentials("AKIDEXAMPLE", "s/+=" * 9, chance.choice([None, "token/+="]))


def boto(given: Credentials) -> BotoCredentials:
    return BotoCredentials(given.access_key, given.secret_key, given.session_token)


@pytest.mark.parametrize("seed", range(30))
def test_a_signed_request_is_botocores(seed: int) -> None:
    chance = random.Random(seed)
    method, path, query = chance.choice(["GET", "PUT", "POST"]), chance.choice(PATHS), chance.choice(QUERIES)
    given, body = keys(chance), chance.randbytes(chance.choice([0, 1, 3_000]))
    headers = {"host": "h.example:9000"} | chance.choice([{}, {"content-type": "application/xml", "x-amz-checksum-sha256": "abc="}])
    ours = signed_headers(method, path, query, headers, body, credentials=given, region="eu-west-1", second=SECOND)
    request = AWSRequest(method, f"http://h.example:9000{path}" + (f"?{encoded(query)}" if query else ""), headers, body)
    request.context["signing"] = {}
    S3SigV4Auth(boto(given), "s3", "eu-west-1").add_auth(request)
    assert request.headers["Authorization"] == ours["authorization"]
    assert request.headers["X-Amz-Content-SHA256"] == ours["x-amz-content-sha256"]


@pytest.mark.parametrize("seed", range(30))
def test_an_address_is_botocores(seed: int) -> None:
    chance = random.Random(seed)
    method, path, given, expires_s = chance.choice(["GET", "PUT"]), chance.choice(PATHS), keys(chance), chance.randrange(1, 604_800)
    query = chance.choice([{}, {"response-content-disposition": "attachment; filename*=UTF-8''a%20b"}])
    headers = {"host": "h.example"} | chance.choice([{}, {"x-amz-checksum-sha256": "abc=", "content-type": "text/plain"}])
    ours = presigned_query(method, path, query, headers, credentials=given, region="eu-west-1", second=SECOND, expires_s=expires_s)
    request = AWSRequest(method, f"https://h.example{path}", {name: v for name, v in headers.items() if name != "host"}, params=query)
    request.context["signing"] = {}
    S3SigV4QueryAuth(boto(given), "s3", "eu-west-1", expires=expires_s).add_auth(request)
    assert dict(parse_qsl(urlsplit(request.url).query)) == dict(parse_qsl(ours))
