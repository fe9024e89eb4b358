"""Calls of the football API and of language models."""

from __future__ import annotations

from palaver.blueprints.baller import Baller, patterns
from palaver.blueprints.baller.names import endpoint_template
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
