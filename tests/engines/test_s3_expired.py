"""Credentials that end while a bucket is used, and answers that did not arrive whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from palaver.blobs.pieces import PART
from palaver.blobs.s3 import S3Blobs
from palaver.connections.aws_credentials import Credentials, CredentialSource
from palaver.errors import PalaverError, Unauthenticated, Unavailable
from palaver.testing.blobs import keys_of
from tests.engines.dynamo_script import Act, Request, scripted, sent, then_closed
from tests.engines.test_s3_failures import SECRET, VERBS, answered, found, opened, stored

NOW = 'Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\nETag: "x"\r\n'
HEAD_SAYS_NOTHING = sent(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
LISTED = found("<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount><Name>bucket</Name></ListBucketResult>")
DELETED = "<DeleteResult><Deleted><Key>p/canary/k=o</Key></Deleted></DeleteResult>"


class Renewing:
    """A role whose credentials can be had anew; `ended` has none any more."""

    def __init__(self, *, ended: bool = False) -> None:
        self.ended, self.asked, self._now = ended, 0, Credentials("AKIDOLD", SECRET, "t")

    def current(self) -> Credentials:
        return self._now

    async def renew(self, refused: Credentials) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        if refused is self._now and not self.ended:
            self._now = Credentials("AKIDNEW", SECRET, "t")
        return refused is not self._now

    async def aclose(self) -> None:
        return


def expired(request: Request) -> bool:
    return "AKIDOLD" in request.headers["authorization"]


def to_the_new(act: Act, code: str = "ExpiredToken") -> Act:
    """Answer requests signed with the new credentials, as S3 does: the answer to a HEAD has no body."""

    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        refusal = HEAD_SAYS_NOTHING if request.method == "HEAD" else answered(400, code)
        await (refusal if expired(request) else act)(request, writer)

    return play


def with_source(monkeypatch: pytest.MonkeyPatch, source: CredentialSource) -> None:
    async def find(*_: object) -> CredentialSource:
        return source

    monkeypatch.setattr("palaver.connections.s3.credential_source", find)


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(PART)


async def answers(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer what each verb asks for."""
    if request.method == "GET":
        whole = sent(f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/1\r\n{NOW}Content-Length: 1\r\n\r\nx".encode())
        await (LISTED if "list-type" in request.path else whole)(request, writer)
    elif request.method == "POST":
        await found("<R><UploadId>u</UploadId></R>" if "upload" in request.path else DELETED)(request, writer)
    elif request.method == "HEAD":
        await sent(f"HTTP/1.1 200 OK\r\n{NOW}Content-Length: 1\r\n\r\n".encode())(request, writer)
    else:
        await stored()(request, writer)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "list"])
async def test_a_request_refused_for_expired_credentials_is_made_again_with_new_ones(
    monkeypatch: pytest.MonkeyPatch, verb: str, code: str
) -> None:
    with_source(monkeypatch, Renewing())
    async with scripted(to_the_new(answers, code)) as script:
        blobs = opened(script.endpoint)
        await VERBS[verb](blobs)
        await blobs.aclose()
    assert expired(script.requests[0])
    assert not expired(script.requests[-1])


async def test_a_listing_that_met_expired_credentials_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with_source(monkeypatch, Renewing())
    async with scripted(to_the_new(answers)) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(Unavailable):
            await keys_of(blobs.list())
        assert [] == await keys_of(blobs.list())
        await blobs.aclose()


async def test_an_upload_goes_on_whose_credentials_ended_between_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Renewing()
    with_source(monkeypatch, source)

    async def later(request: Request, writer: asyncio.StreamWriter) -> None:
        # The first ones are still taken for the beginning of the upload.
        begins = "uploads" in request.path
        await (answers if begins else to_the_new(answers))(request, writer)

    async with scripted(later) as script:
        blobs = opened(script.endpoint)
        await blobs.put_stream("k", pieces(6), 6 * PART)
        await blobs.aclose()
    assert {f"partNumber={n}" for n in range(1, 7)} == {
        part for each in script.requests if not expired(each) for part in each.path.partition("?")[2].split("&") if "partNumber" in part
    }
    assert all(each.method != "DELETE" for each in script.requests)


@pytest.mark.parametrize("verb", VERBS)
async def test_where_there_are_no_others_it_is_said_once_and_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    source = Renewing(ended=True)
    with_source(monkeypatch, source)
    async with scripted(to_the_new(answers)) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(PalaverError) as caught:
            await VERBS[verb](blobs)
        await blobs.aclose()
    assert not caught.value.retryable
    assert isinstance(caught.value, Unauthenticated) or verb == "head"
    assert len(script.requests) <= 2


# --- what did not arrive whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [10, 5], ids=["cut", "of another length"])
async def test_a_body_that_is_too_short_is_never_the_object(told: int) -> None:
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n{NOW}Content-Length: {told}\r\n\r\n"
    async with scripted(then_closed(sent(f"{head}wrong".encode()))) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(Unavailable):
            await blobs.get("unnamed")
        await blobs.aclose()


@pytest.mark.parametrize("code", ["BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"])
async def test_what_did_not_arrive_whole_there_may_be_sent_again(code: str) -> None:
    async with scripted(answered(400, code)) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(Unavailable) as caught:
            await blobs.put("k", b"x")
        await blobs.aclose()
    assert caught.value.retryable


async def test_an_upload_that_others_gave_up_is_no_missing_object() -> None:
    """A rule of the bucket ends unfinished uploads; whoever copies would take NotFound for an object released meanwhile."""

    async def ended(request: Request, writer: asyncio.StreamWriter) -> None:
        await (answered(404, "NoSuchUpload") if request.method == "PUT" else answers)(request, writer)

    async with scripted(ended) as script:
        blobs = opened(script.endpoint)
        with pytest.raises(Unavailable):
            await blobs.put_stream("k", pieces(2), 2 * PART)
        with pytest.raises(Unavailable):
            await blobs.put("k", bytes(PART + 1))
        await blobs.aclose()
    assert 2 == sum(each.method == "DELETE" for each in script.requests)


async def test_what_was_put_in_parts_and_failed_leaves_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(request: Request, writer: asyncio.StreamWriter) -> None:
        await (answered(403, "AccessDenied") if "partNumber=2" in request.path else answers)(request, writer)

    async with scripted(full) as script:
        blobs: S3Blobs = opened(script.endpoint)
        with pytest.raises(PalaverError):
            await blobs.put("k", bytes(3 * PART))
        await blobs.aclose()
    assert "DELETE" == script.requests[-1].method
    assert "uploadId=u" in script.requests[-1].path
