"""Calls of the football API and of language models."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from palaver.blueprints.baller import Baller, patterns
from palaver.blueprints.baller.names import endpoint_template
from palaver.errors import NumberRange, Validation
from tests.blueprints.baller.given import found


async def test_an_endpoint_of_3_kb_is_stored_whole_and_grouped_by_its_template(baller: Baller) -> None:
    long = "/fixtures/1035037/events?ids=" + "-".join(str(number) for number in range(800))
    path = "/" + "x" * 3_000
    async with baller.turn(user_id="u", content="?", message_id="1") as turn:
        for endpoint in (long, "/fixtures/7/events", path):
            async with turn.api_call(endpoint) as call:
                call.response(200)
    calls = await found(baller, patterns.api_calls_of_endpoint("/fixtures/99/events"))
    assert {long, "/fixtures/7/events"} == {call.endpoint for call in calls}
    assert {"/fixtures/{id}/events"} == {call.endpoint_template for call in calls}
    assert [path] == [call.endpoint for call in await found(baller, patterns.api_calls_of_endpoint(path))]


def test_identifiers_in_an_endpoint_do_not_make_another_template() -> None:
    assert "/teams/{id}/players" == endpoint_template("/teams/42/players?season=2024#top")
    assert "/users/{id}" == endpoint_template("/users/0194f7c2-7a4e-7cc0-9d5b-0a1b2c3d4e5f")
    assert "/" == endpoint_template("")
    assert endpoint_template("/" + "x" * 3_000) != endpoint_template("/" + "x" * 2_999)


async def test_calls_at_the_same_instant_keep_the_order_they_began_in(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1", conversation_id="c") as turn:
        for number in range(20):
            if number % 2:
                async with turn.api_call(f"/{number}x") as api:
                    api.response(200)
            else:
                async with turn.llm_call(provider="p", model=f"/{number}x", purpose="evaluation") as llm:
                    llm.result(None, None)
    [said] = [said async for said in baller.transcript("u", "c")]
    assert [f"/{number}x" for number in range(20)] == [step.name for step in said.steps]


async def test_failed_calls_are_stored_with_their_reason(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1", conversation_id="c") as turn:
        async with turn.api_call("/fixtures") as call:
            call.response(429, {"message": "slow down"})
        await turn.reply("Later.")
    [stored] = await found(baller, patterns.api_calls_of_message("1"))
    assert (False, "HTTP 429", 429, {"message": "slow down"}) == (
        stored.success,
        stored.error_message,
        stored.status_code,
        stored.response,
    )
    assert 1 == (await baller.conversation("u", "c")).metrics.error_count


def nested(levels: int) -> dict[str, Any]:
    return {"deeper": nested(levels - 1)} if levels else {}


NOT_JSON: tuple[tuple[Any, str], ...] = (
    ((1, 2), "tuple"),
    (UUID(int=7), "UUID"),
    (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
    ({1, 2}, "set"),
    (OrderedDict(a=1), "OrderedDict"),
    (object(), "object"),
    ({1: 2}, "map key that is not text"),
    (float("nan"), "not finite"),
    (float("inf"), "not finite"),
    ("canary\0", r"U\+0000"),
    ("canary\ud800", "surrogate"),
    (nested(40), "deeper than 32"),
)


async def test_what_json_cannot_hold_is_refused_by_its_field_when_it_is_written(baller: Baller) -> None:
    async with baller.turn(user_id="u", content="?", message_id="1", conversation_id="c") as turn:
        for value, why in NOT_JSON:
            for body, request, field in (({"a": [value]}, {}, "response"), ({}, {"a": value}, "parameters")):
                with pytest.raises((Validation, NumberRange), match=why) as caught:
                    async with turn.api_call("/fixtures", request) as call:
                        call.response(200, body)
                assert f"ApiInteraction.{field}" in str(caught.value)
                assert "canary" not in str(caught.value)
            with pytest.raises((Validation, NumberRange), match=why):
                await turn.intent("match_result", api_params={"a": value})
            with pytest.raises((Validation, NumberRange), match=why):
                async with turn.llm_call(provider="p", model="m", purpose="evaluation") as llm:
                    llm.result([value], None)
    assert [] == await found(baller, patterns.api_calls_of_message("1"))
    assert [] == await found(baller, patterns.llm_calls_of_message("1"))
    assert (await baller.message("1")).intent is None


async def test_what_json_has_no_form_for_but_a_store_has_comes_back_exactly(baller: Baller) -> None:
    body: Any = {"odds": Decimal("1.50"), "logo": b"\x89PNG", "ids": frozenset({1, 2}), "id": 10**30}
    async with baller.turn(user_id="u", content="?", message_id="1") as turn, turn.api_call("/odds") as call:
        call.response(200, body)
    [stored] = await found(baller, patterns.api_calls_of_message("1"))
    answer: Any = stored.response
    assert body == answer
    assert {name: type(value) for name, value in body.items()} == {name: type(value) for name, value in answer.items()}
