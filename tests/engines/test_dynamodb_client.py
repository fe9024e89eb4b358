"""Facts about the DynamoDB client: what it makes of every answer and of none, how often it tries, what it leaves unprocessed."""

from __future__ import annotations

import asyncio
import json
import random
import time

import pytest

from palaver.connections.dynamodb import ConditionalCheckFailed, Pace, TransactionCancelled
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
from tests.engines.dynamo_script import (
    FAULT,
    LOST,
    PUT,
    THROTTLED,
    Pauses,
    client,
    cut,
    dripping,
    encoded,
    failed,
    kinds,
    ok,
    outcome,
    scripted,
    sent,
    silent,
)

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
    assert ({"a": {"S": "secret word"}}, 1) == (found.item, requests)
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


# --- requests whose answer is lost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOST)
async def test_a_write_that_must_not_be_repeated_is_sent_once_and_its_outcome_is_unknown(name: str) -> None:
    found, requests = await outcome(LOST[name], ok(), idempotent=False, deadline_s=0.3)
    assert (OutcomeUnknown, 1) == (type(found), requests)


@pytest.mark.parametrize("name", LOST)
async def test_an_idempotent_write_is_repeated(name: str) -> None:
    found, requests = await outcome(LOST[name], ok({"Attributes": {}}), pace=Pace(attempt_s=0.5))
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


async def test_a_full_pool_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    async with scripted(cut, silent) as script, client(script, pool=1, sleep=asyncio.sleep, pace=Pace(base_s=2.0, cap_s=2.0)) as dynamo:
        lost = asyncio.create_task(dynamo.call("PutItem", PUT, deadline_s=1.0))
        await asyncio.sleep(0.05)
        holder = asyncio.create_task(dynamo.call("PutItem", PUT, idempotent=False, deadline_s=1.5))
        with pytest.raises(OutcomeUnknown):
            await lost
        assert len(script.requests) == 2
        with pytest.raises(OutcomeUnknown):
            await holder


async def test_a_condition_that_fails_after_a_lost_answer_is_told_as_one() -> None:
    found, requests = await outcome(cut, failed("ConditionalCheckFailedException", Item={}))
    assert (ConditionalCheckFailed, 2) == (type(found), requests)


async def test_a_slow_drip_ends_at_the_deadline_and_the_connection_is_not_used_again() -> None:
    async with scripted(dripping, ok({"Item": {}})) as script, client(script) as dynamo:
        start = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await dynamo.call("PutItem", PUT, idempotent=False, deadline_s=0.2)
        assert 0.15 < time.monotonic() - start < 20
        assert {"Item": {}} == await dynamo.call("GetItem", {"TableName": "t"})
        assert (2, [0, 0]) == (script.connections, [request.before for request in script.requests])


async def test_one_dead_connection_does_not_eat_the_deadline() -> None:
    found, requests = await outcome(silent, ok({"Item": {}}), operation="GetItem", pace=Pace(attempt_s=0.5), deadline_s=30)
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
