"""Facts about the DynamoDB client: what it sends, what it makes of every fault, how often it tries, what it never tells."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from palaver.clock import ManualClock
from palaver.connections.dynamodb import ConditionalCheckFailed, Credentials, DynamoClient, Pace, TransactionCancelled
from palaver.errors import (
    BatchShape,
    ConfigError,
    Conflict,
    Corruption,
    Forbidden,
    IdempotencyMismatch,
    InProgress,
    NotProvisioned,
    OutcomeUnknown,
    PalaverError,
    StorageFull,
    Throttled,
    Trimmed,
    Unauthenticated,
    Unavailable,
    Validation,
)
from tests.engines.dynamo_script import Act, Script, chunked, cut, dripping, encoded, failed, half, ok, scripted, sent, silent, then_closed

KEYS = Credentials("AKIDEXAMPLE", "canary/Secret+Of/Nobody", "canaryToken==")
PUT = {"TableName": "t", "Item": {"a": {"S": "stored value"}}}
THROTTLED = failed("ProvisionedThroughputExceededException", message="slow down")
FAULT = failed("InternalServerError", 500)


class Pauses:
    """A sleep that takes no time: it moves the client's clock and keeps what it was asked for."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime.now(UTC))
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)


@asynccontextmanager
async def client(script: Script, *, seed: int = 1, pauses: Pauses | None = None, **options: Any) -> AsyncIterator[DynamoClient]:
    pauses = pauses or Pauses()
    options = {"endpoint": script.endpoint, "credentials": KEYS, "clock": pauses.clock, "sleep": pauses, **options}
    opened = await DynamoClient.open("eu-west-1", draw=random.Random(seed).random, **options)
    try:
        yield opened
    finally:
        await opened.aclose()


async def outcome(*acts: Act, operation: str = "PutItem", body: dict[str, Any] | None = None, **how: Any) -> tuple[Any, int]:
    """Return what a call gave or raised, and how many requests reached the server."""
    idempotent = how.pop("idempotent", True)
    async with scripted(*acts) as script, client(script, **how) as dynamo:
        try:
            found: Any = await dynamo.call(operation, body or PUT, idempotent=idempotent)
        except Exception as error:
            found = error
        return found, len(script.requests)


# --- answers that are not a success -------------------------------------------------------------------------------------


async def test_a_throttled_call_is_tried_again_after_a_pause() -> None:
    pauses = Pauses()
    found, requests = await outcome(THROTTLED, THROTTLED, ok({"Attributes": {}}), pauses=pauses)
    assert ({"Attributes": {}}, 3, 2) == (found, requests, len(pauses.taken))


async def test_pauses_grow_to_a_cap_are_drawn_in_full_and_replay_from_their_seed() -> None:
    pace = Pace(attempts=9, base_s=0.1, cap_s=1.0)
    first, second, other = Pauses(), Pauses(), Pauses()
    for pauses, seed in ((first, 7), (second, 7), (other, 8)):
        await outcome(THROTTLED, pauses=pauses, seed=seed, pace=pace, deadline_s=60)
    draws = random.Random(7)
    assert [draws.random() * min(1.0, 0.1 * 2**n) for n in range(8)] == first.taken
    assert first.taken == second.taken != other.taken


async def test_a_call_ends_with_its_deadline_even_where_attempts_are_left() -> None:
    pauses = Pauses()
    found, requests = await outcome(THROTTLED, pauses=pauses, pace=Pace(attempts=1000), deadline_s=3.0)
    assert isinstance(found, Throttled)
    assert sum(pauses.taken) < 3.0
    assert len(pauses.taken) + 1 == requests < 60


@pytest.mark.parametrize(
    ("given", "reason", "resource"),
    [
        ("TableWriteKeyRangeThroughputExceeded", "hot key", "notes"),
        ("IndexWriteKeyRangeThroughputExceeded", "hot key", "notes/index/by_user"),
        ("TableReadAccountLimitExceeded", "account", "notes"),
        ("IndexWriteMaxOnDemandThroughputExceeded", "on-demand maximum", "notes/index/by_user"),
        ("TableReadProvisionedThroughputExceeded", "provisioned", "notes"),
    ],
)
async def test_throttling_says_which_limit_and_where(given: str, reason: str, resource: str) -> None:
    why = [{"reason": given, "resource": f"arn:aws:dynamodb:eu-west-1:123456789012:table/{resource}"}]
    found, _ = await outcome(failed("ProvisionedThroughputExceededException", ThrottlingReasons=why))
    assert isinstance(found, Throttled)
    assert (reason, resource) == (found.context["reason"], found.context["resource"])
    assert "123456789012" not in str(found)


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        ("RequestLimitExceeded", Throttled, 4),
        ("ThrottlingException", Throttled, 4),
        ("LimitExceededException", Throttled, 4),
        ("TransactionConflictException", Conflict, 4),
        ("ReplicatedWriteConflictException", Conflict, 4),
        ("TransactionInProgressException", InProgress, 4),
        ("IdempotentParameterMismatchException", IdempotencyMismatch, 1),
        ("ItemCollectionSizeLimitExceededException", StorageFull, 1),
        ("ValidationException", Validation, 1),
        ("SerializationException", Validation, 1),
        ("SomethingNew", Validation, 1),
        ("ResourceNotFoundException", NotProvisioned, 1),
        ("ResourceInUseException", NotProvisioned, 1),
        ("AccessDeniedException", Forbidden, 1),
        ("UnrecognizedClientException", Unauthenticated, 1),
        ("MissingAuthenticationTokenException", Unauthenticated, 1),
        ("ExpiredTokenException", Unauthenticated, 1),
        ("UnknownOperationException", ConfigError, 1),
        ("TrimmedDataAccessException", Trimmed, 1),
        ("ExpiredIteratorException", Trimmed, 1),
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
async def test_each_code_is_a_named_error_and_only_collisions_are_tried_again(
    code: str, kind: type[PalaverError], attempts: int, idempotent: bool
) -> None:
    found, requests = await outcome(failed(code, message="stored value"), pace=Pace(attempts=4), idempotent=idempotent)
    assert (kind, attempts) == (type(found), requests)
    assert "stored value" not in str(found)
    assert code == found.context["service_code"]


async def test_a_condition_that_fails_comes_with_the_stored_item() -> None:
    found, requests = await outcome(failed("ConditionalCheckFailedException", Item={"a": {"S": "secret word"}}))
    assert isinstance(found, ConditionalCheckFailed)
    assert ({"a": {"S": "secret word"}}, False, 1) == (found.item, found.maybe_ours, requests)
    assert "secret word" not in f"{found!r} {found}"


async def test_a_cancelled_transaction_comes_with_its_reasons_in_order() -> None:
    reasons = [{"Code": "None"}, {"Code": "ConditionalCheckFailed", "Item": {"a": {"S": "secret word"}}}, {"Code": "TransactionConflict"}]
    found, requests = await outcome(failed("TransactionCanceledException", CancellationReasons=reasons), operation="TransactWriteItems")
    assert isinstance(found, TransactionCancelled)
    assert [("None", None), ("ConditionalCheckFailed", {"a": {"S": "secret word"}}), ("TransactionConflict", None)] == found.reasons
    assert requests == 1
    assert "secret word" not in f"{found!r} {found} {found.reasons}"


async def test_reasons_are_read_from_the_message_where_there_is_no_list() -> None:
    text = "Transaction cancelled, please refer cancellation reasons for specific reasons [None, ConditionalCheckFailed]"
    found, _ = await outcome(failed("TransactionCanceledException", Message=text), operation="TransactWriteItems")
    assert isinstance(found, TransactionCancelled)
    assert ["None", "ConditionalCheckFailed"] == [reason.code for reason in found.reasons]


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        ("TransactionConflict", Conflict, 3),
        ("ThrottlingError", Throttled, 3),
        ("ProvisionedThroughputExceeded", Throttled, 3),
        ("ValidationError", Validation, 1),
        ("ItemCollectionSizeLimitExceeded", StorageFull, 1),
        ("AccessDenied", Forbidden, 1),
    ],
)
async def test_a_transaction_cancelled_without_a_failed_condition(code: str, kind: type[PalaverError], attempts: int) -> None:
    act = failed("TransactionCanceledException", CancellationReasons=[{"Code": "None"}, {"Code": code}])
    found, requests = await outcome(act, operation="TransactWriteItems", pace=Pace(attempts=3), idempotent=False)
    assert (kind, attempts) == (type(found), requests)


async def test_a_proxys_page_is_judged_by_its_status() -> None:
    page = b"<html>stored value</html>"
    assert (BatchShape, 1) == kinds(await outcome(sent(encoded(413, page))))
    assert (Forbidden, 1) == kinds(await outcome(sent(encoded(403, page))))
    assert (ConfigError, 1) == kinds(await outcome(sent(encoded(302, page))))
    assert (Throttled, 2) == kinds(await outcome(sent(encoded(429, page)), pace=Pace(attempts=2)))
    assert (OutcomeUnknown, 1) == kinds(await outcome(sent(encoded(503, page)), idempotent=False))


def kinds(found: tuple[Any, int]) -> tuple[type, int]:
    return type(found[0]), found[1]


# --- requests whose answer is lost --------------------------------------------------------------------------------------

LOST = {"fault": FAULT, "cut": cut, "half": half, "silent": silent, "garbled": sent(b"SSH-2.0-OpenSSH_9.2\r\n"), "crc": ok({}, crc=1)}


@pytest.mark.parametrize("name", LOST)
async def test_a_write_that_must_not_be_repeated_is_sent_once_and_its_outcome_is_unknown(name: str) -> None:
    found, requests = await outcome(LOST[name], ok(), idempotent=False, deadline_s=0.3)
    assert (OutcomeUnknown, 1) == (type(found), requests)


@pytest.mark.parametrize("name", LOST)
async def test_an_idempotent_write_is_repeated(name: str) -> None:
    found, requests = await outcome(LOST[name], ok({"Attributes": {}}), pace=Pace(attempt_s=0.1))
    assert ({"Attributes": {}}, 2) == (found, requests)


@pytest.mark.parametrize("name", LOST)
async def test_a_write_repeated_in_vain_stays_unknown_and_a_read_is_unavailable(name: str) -> None:
    pace = Pace(attempts=2, attempt_s=0.1)
    found, requests = await outcome(LOST[name], pace=pace)
    assert (OutcomeUnknown, 2) == (type(found), requests)
    found, requests = await outcome(LOST[name], pace=pace, operation="GetItem", idempotent=False)
    assert (Corruption if name == "crc" else Unavailable, 2) == (type(found), requests)


async def test_once_an_outcome_is_unknown_no_later_error_says_that_nothing_was_written() -> None:
    assert (OutcomeUnknown, 5) == kinds(await outcome(cut, THROTTLED, pace=Pace(attempts=5)))
    assert (OutcomeUnknown, 2) == kinds(await outcome(FAULT, failed("AccessDeniedException")))


async def test_a_condition_that_fails_after_a_lost_answer_may_be_our_own_doing() -> None:
    found, requests = await outcome(cut, failed("ConditionalCheckFailedException", Item={}))
    assert isinstance(found, ConditionalCheckFailed)
    assert (True, 2) == (found.maybe_ours, requests)


async def test_a_slow_drip_ends_at_the_deadline_and_the_connection_is_not_used_again() -> None:
    async with scripted(dripping, ok({"Item": {}})) as script, client(script) as dynamo:
        start = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await dynamo.call("PutItem", PUT, idempotent=False, deadline_s=0.2)
        assert 0.15 < time.monotonic() - start < 2.0
        assert {"Item": {}} == await dynamo.call("GetItem", {"TableName": "t"})
        assert (2, [0, 0]) == (script.connections, [request.before for request in script.requests])


async def test_one_dead_connection_does_not_eat_the_deadline() -> None:
    found, requests = await outcome(silent, ok({"Item": {}}), operation="GetItem", pace=Pace(attempt_s=0.1), deadline_s=30)
    assert ({"Item": {}}, 2) == (found, requests)


async def test_a_server_that_is_not_there_is_unavailable_and_nothing_is_unknown() -> None:
    async with scripted(ok()) as script:
        pass
    async with client(script, pace=Pace(attempts=3)) as dynamo:
        with pytest.raises(Unavailable):
            await dynamo.call("PutItem", PUT, idempotent=False)
        assert {"unreachable": 2} == dict(dynamo.retried)


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    async with scripted(ok()) as script, client(script, endpoint="http://no-such-host.invalid:1", pace=Pace(attempts=2)) as dynamo:
        with pytest.raises(Unavailable):
            await dynamo.call("GetItem", {"TableName": "t"})


# --- connections --------------------------------------------------------------------------------------------------------


async def test_answers_in_chunks_and_split_anywhere_are_read_whole() -> None:
    async with scripted(chunked) as script, client(script) as dynamo:
        for _ in range(3):
            assert {"Item": {"a": {"S": "in parts"}}} == await dynamo.call("GetItem", {"TableName": "t"})
        assert (1, [0, 1, 2]) == (script.connections, [request.before for request in script.requests])


async def test_a_connection_the_server_closed_while_idle_is_not_used() -> None:
    async with scripted(then_closed(ok()), ok()) as script, client(script) as dynamo:
        await dynamo.call("PutItem", PUT, idempotent=False)
        await asyncio.sleep(0.05)
        await dynamo.call("PutItem", PUT, idempotent=False)
        assert (2, {}) == (script.connections, dict(dynamo.retried))


async def test_a_connection_announced_to_be_closed_is_not_used() -> None:
    async with scripted(ok(extra="Connection: close\r\n"), ok()) as script, client(script) as dynamo:
        await dynamo.call("PutItem", PUT, idempotent=False)
        await dynamo.call("PutItem", PUT, idempotent=False)
        assert (2, {}) == (script.connections, dict(dynamo.retried))


async def test_a_stale_connection_is_replaced_at_once_where_repeating_is_safe() -> None:
    pauses = Pauses()
    async with scripted(ok(), cut, ok(), cut) as script, client(script, pauses=pauses) as dynamo:
        await dynamo.call("PutItem", PUT)
        await dynamo.call("PutItem", PUT)
        assert (3, [0, 1, 0], []) == (len(script.requests), [request.before for request in script.requests], pauses.taken)
        with pytest.raises(OutcomeUnknown):
            await dynamo.call("PutItem", PUT, idempotent=False)


async def test_old_and_long_idle_connections_are_replaced() -> None:
    for pace in (Pace(age_s=0.05), Pace(idle_s=0.05)):
        async with scripted(ok()) as script, client(script, pace=pace) as dynamo:
            await dynamo.call("GetItem", {"TableName": "t"})
            await dynamo.call("GetItem", {"TableName": "t"})
            assert script.connections == 1
            await asyncio.sleep(0.1)
            await dynamo.call("GetItem", {"TableName": "t"})
            assert script.connections == 2


async def test_many_callers_share_a_small_pool_and_each_gets_its_own_answer() -> None:
    async def echo(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(random.random() / 200)
        writer.write(encoded(200, request.body))

    async with scripted(echo) as script, client(script, pool=3) as dynamo:
        bodies = [{"TableName": f"t{number}"} for number in range(200)]
        assert bodies == await asyncio.gather(*(dynamo.call("GetItem", body) for body in bodies))
        assert (200, 3) == (len(script.requests), script.connections)


async def test_a_full_pool_is_throttling_at_the_deadline() -> None:
    async with scripted(silent) as script, client(script, pool=1) as dynamo:
        holder = asyncio.create_task(dynamo.call("PutItem", PUT, idempotent=False, deadline_s=0.5))
        await asyncio.sleep(0.05)
        with pytest.raises(Throttled) as caught:
            await dynamo.call("PutItem", PUT, idempotent=False, deadline_s=0.1)
        assert caught.value.context["reason"] == "pool"
        with pytest.raises(OutcomeUnknown):
            await holder


async def test_cancelled_callers_leave_the_pool_healthy() -> None:
    """Cancelled while connecting, waiting for a connection and waiting for an answer; no place is lost and no answer changes hands."""

    async def slow_echo(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.003)
        writer.write(encoded(200, request.body))

    chance = random.Random(11)
    async with scripted(slow_echo) as script, client(script, pool=4) as dynamo:
        for _ in range(30):
            bodies = [{"TableName": f"t{number}"} for number in range(16)]
            calls = [asyncio.create_task(dynamo.call("GetItem", body)) for body in bodies]
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0.001)
                chance.choice(calls).cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            for body, answer in zip(bodies, found, strict=True):
                assert answer == body or isinstance(answer, asyncio.CancelledError)
        bodies = [{"TableName": f"last{number}"} for number in range(40)]
        assert bodies == await asyncio.gather(*(dynamo.call("GetItem", body) for body in bodies))
        assert len(script.open) <= 4


async def test_an_answer_nobody_asked_for_is_never_taken_for_the_next_one() -> None:
    both = sent(encoded(200, b'{"Item": {"a": {"S": "mine"}}}') + encoded(200, b'{"Item": {"a": {"S": "of another"}}}'))
    async with scripted(both, ok({"Item": {}})) as script, client(script) as dynamo:
        assert {"Item": {"a": {"S": "mine"}}} == await dynamo.call("GetItem", {"TableName": "t"})
        assert {"Item": {}} == await dynamo.call("GetItem", {"TableName": "t"})
        assert script.connections == 2


async def test_closing_waits_for_calls_in_flight_and_refuses_new_ones() -> None:
    async def late(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(encoded(200, b'{"Item": {}}'))

    async with scripted(late) as script, client(script, pool=1) as dynamo:
        running = asyncio.create_task(dynamo.call("GetItem", {"TableName": "t"}))
        waiting = asyncio.create_task(dynamo.call("GetItem", {"TableName": "t"}))
        await asyncio.sleep(0.03)
        await dynamo.aclose()
        assert {"Item": {}} == await running
        for call in (waiting, dynamo.call("GetItem", {"TableName": "t"})):
            with pytest.raises(ConfigError):
                await call
        await asyncio.sleep(0.01)
        assert not script.open
    gc.collect()  # an unclosed transport would warn, and a warning is an error here


async def test_streams_have_a_target_of_their_own() -> None:
    async with scripted(ok()) as script, client(script) as dynamo:
        await dynamo.call("GetRecords", {"ShardIterator": "x"})
        await dynamo.call("Query", {"TableName": "t"})
        targets = [request.headers["x-amz-target"] for request in script.requests]
        assert ["DynamoDBStreams_20120810.GetRecords", "DynamoDB_20120810.Query"] == targets


# --- batches ------------------------------------------------------------------------------------------------------------


async def test_what_a_batch_leaves_unprocessed_is_written_later_and_nothing_else_again() -> None:
    puts = [{"PutRequest": {"Item": {"a": {"N": str(number)}}}} for number in range(25)]
    pauses = Pauses()
    acts = [ok({"UnprocessedItems": {"t": puts[5:]}}), ok({"UnprocessedItems": {"t": puts[20:]}}), ok({"UnprocessedItems": {}})]
    async with scripted(*acts) as script, client(script, pauses=pauses) as dynamo:
        await dynamo.batch_write({"t": puts})
        assert [puts, puts[5:], puts[20:]] == [json.loads(request.body)["RequestItems"]["t"] for request in script.requests]
        assert (2, {"unprocessed": 2}) == (len(pauses.taken), dict(dynamo.retried))


async def test_a_batch_that_is_never_taken_is_throttled_and_says_how_much_is_left() -> None:
    async with scripted(ok({"UnprocessedItems": {"t": [{}, {}], "u": [{}]}})) as script, client(script, pace=Pace(attempts=4)) as dynamo:
        with pytest.raises(Throttled) as caught:
            await dynamo.batch_write({"t": [{}, {}], "u": [{}]})
        assert (3, 4) == (caught.value.context["left"], len(script.requests))


async def test_a_batch_read_gathers_all_rounds() -> None:
    one, two = {"a": {"N": "1"}}, {"a": {"N": "2"}}
    acts = [
        ok({"Responses": {"t": [one]}, "UnprocessedKeys": {"t": {"Keys": [two], "ConsistentRead": True}}}),
        ok({"Responses": {"t": [two]}}),
    ]
    async with scripted(*acts) as script, client(script) as dynamo:
        assert {"t": [one, two]} == await dynamo.batch_get({"t": {"Keys": [one, two], "ConsistentRead": True}})
        assert b'{"RequestItems":{"t":{"Keys":[{"a":{"N":"2"}}],"ConsistentRead":true}}}' == script.requests[1].body


# --- time and trust -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed"])
async def test_a_wrong_clock_is_corrected_by_the_servers_date_once(code: str) -> None:
    ahead = time.time() + 900
    async with scripted(failed(code, date=ahead), ok()) as script, client(script) as dynamo:
        await dynamo.call("PutItem", PUT, idempotent=False)
        await dynamo.call("PutItem", PUT, idempotent=False)
        dates = [datetime.strptime(request.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z") for request in script.requests]
        seconds = [date.timestamp() for date in dates]
        assert len(seconds) == 3
        assert seconds[0] < ahead - 800
        assert all(abs(second - ahead) < 60 for second in seconds[1:])


async def test_a_wrong_signature_at_the_right_time_is_not_tried_again() -> None:
    assert (Unauthenticated, 1) == kinds(await outcome(failed("InvalidSignatureException", date=time.time())))


async def test_a_wrong_clock_is_corrected_only_once_in_a_call() -> None:
    acts = [failed("InvalidSignatureException", date=time.time() + ahead) for ahead in (900, 9000)]
    assert (Unauthenticated, 2) == kinds(await outcome(*acts))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "both.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command, *names], check=True, capture_output=True)
    with (folder / "both.pem").open("a") as both:
        both.write((folder / "certificate.pem").read_text())
    return folder


async def test_a_server_is_trusted_only_with_a_certificate_that_is(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "both.pem")
    async with scripted(ok({"Item": {}}), tls=context) as script:
        where = f"https://localhost:{script.port}"
        async with client(script, endpoint=where) as dynamo:
            with pytest.raises(ConfigError, match="not trusted"):
                await dynamo.call("GetItem", {"TableName": "t"})
        assert not script.requests
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "certificate.pem"))
        async with client(script, endpoint=where) as dynamo:
            assert {"Item": {}} == await dynamo.call("GetItem", {"TableName": "t"})
        async with client(script, endpoint=f"https://127.0.0.1:{script.port}") as dynamo:
            with pytest.raises(ConfigError, match="not trusted"):
                await dynamo.call("GetItem", {"TableName": "t"})


async def test_no_error_log_or_repr_tells_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    acts = {
        **LOST,
        "throttled": THROTTLED,
        "denied": failed("AccessDeniedException", message="canary"),
        "page": sent(encoded(500, b"canary")),
    }
    told = [repr(KEYS), str(KEYS)]
    for act in acts.values():
        async with scripted(act) as script, client(script, pace=Pace(attempts=2, attempt_s=0.05)) as dynamo:
            told.append(repr(dynamo) + repr(vars(dynamo)))
            for body in (PUT, {"TableName": "t", "Item": {"a": {"S": "\ud800stored value"}}}):
                with pytest.raises(PalaverError) as caught:
                    await dynamo.call("PutItem", body)
                error: BaseException | None = caught.value
                while error is not None:
                    told.append(f"{error!r} {error} {getattr(error, 'context', '')}")
                    error = error.__cause__
    text = "\n".join([*told, caplog.text])
    assert [word for word in ("canary", "stored value", "AKID") if word in text] == []
