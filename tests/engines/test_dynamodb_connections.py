"""Facts about connections to DynamoDB: who gets which, which are not used again, whom they trust, what they never tell."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import ssl
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from palaver.connections.dynamodb import Pace
from palaver.connections.dynamodb_endpoints import Endpoint
from palaver.connections.dynamodb_http import Pool
from palaver.errors import (
    ConfigError,
    OutcomeUnknown,
    PalaverError,
    Throttled,
    Unauthenticated,
)
from tests.engines.dynamo_script import (
    KEYS,
    LOST,
    PUT,
    THROTTLED,
    Pauses,
    chunked,
    client,
    cut,
    encoded,
    failed,
    kinds,
    ok,
    outcome,
    scripted,
    sent,
    silent,
    then_closed,
)

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


async def test_a_new_connection_that_is_cut_is_not_taken_for_a_stale_one() -> None:
    pauses = Pauses()
    found, requests = await outcome(cut, ok({"Item": {}}), pauses=pauses)
    assert ({"Item": {}}, 2, 1) == (found, requests, len(pauses.taken))


async def test_each_call_has_its_own_deadline() -> None:
    async with scripted(silent) as script, client(script) as dynamo:
        calls = [dynamo.call("PutItem", PUT, idempotent=False, deadline_s=seconds) for seconds in (0.1, 0.3, 0.2)]
        async with asyncio.timeout(5):
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert [OutcomeUnknown] * 3 == [type(error) for error in found]


async def test_an_interim_answer_is_not_the_answer() -> None:
    found, requests = await outcome(sent(b"HTTP/1.1 100 Continue\r\n\r\n" + encoded(200, b'{"Item": {}}')), ok())
    assert ({"Item": {}}, 1) == (found, requests)


@pytest.mark.parametrize("what", ["a connection", "a place"])
async def test_what_a_cancelled_waiter_was_given_goes_to_the_next(what: str) -> None:
    async with scripted(ok()) as script:
        loop = asyncio.get_running_loop()
        pool = Pool(Endpoint("127.0.0.1", script.port, False), None, limit=1, connect_s=1, idle_s=9, age_s=9)
        first = await pool.connect(loop.time() + 5)
        waiters = [asyncio.create_task(pool.connect(loop.time() + 5)) for _ in range(2)]
        await asyncio.sleep(0)
        if what == "a place":
            pool.forget(first)
        else:
            pool.give(first)
        waiters[0].cancel()
        async with asyncio.timeout(5):
            assert (await waiters[1] is first) == (what == "a connection")
        with pytest.raises(asyncio.CancelledError):
            await waiters[0]
        first.close()
        pool.give(await waiters[1])
        await pool.aclose(1)


async def test_old_and_long_idle_connections_are_replaced() -> None:
    for pace, since in ((Pace(age_s=60), "born"), (Pace(idle_s=60), "idle_since")):
        async with scripted(ok()) as script, client(script, pace=pace) as dynamo:
            await dynamo.call("GetItem", {"TableName": "t"})
            await dynamo.call("GetItem", {"TableName": "t"})
            assert script.connections == 1
            (connection,) = dynamo._main.pool._idle
            setattr(connection, since, getattr(connection, since) - 60)
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
