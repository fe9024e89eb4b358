"""Commands over Simple AI Agent, whose tenants are a field and whose messages are found by an index of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import palaver as library
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import Settings, SimpleAgent
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver


def of_another_tenant(file: Path) -> tuple[str, str, str]:
    """Have somebody of tenant "acme" ask a question; return who, in which conversation and by which message."""

    async def ask() -> tuple[str, str, str]:
        async with library.open(str(file), schema=simple_agent.SCHEMA, maintain=False) as store:
            agent = SimpleAgent(store, settings=Settings(tenant="acme"))
            async with agent.message("discord", "ann", "What is due today?") as turn:
                await turn.reply("Nothing.")
            return turn.user_id, turn.conversation_id, turn.message_id

    return asyncio.run(ask())


def test_a_message_is_shown_by_its_id_alone(palaver: Palaver, agent: Path) -> None:
    [asked] = palaver("query", "Message", "--where", "role=user", "--limit", 1).json["data"]

    shown = palaver("show", asked["message_id"]).json

    assert asked["conversation_id"] == shown["conversation_id"]
    assert asked["user_id"] == shown["user_id"]
    assert asked["message_id"] == shown["messages"][0]["message_id"]
    assert ["user"] == [each["role"] for each in shown["messages"] if each["role"] == "user"]


def test_what_is_unique_beside_the_message_is_taken_for_none(palaver: Palaver, agent: Path) -> None:
    """Nobody has two active conversations; that does not make the user's identifier one of a message."""
    user, _, _ = of_another_tenant(agent)

    refused = palaver("show", user)

    assert Exit.NOT_FOUND == refused.code
    assert "No conversation or message has this identifier." in refused.err


def test_what_is_shown_is_of_any_tenant(palaver: Palaver, agent: Path) -> None:
    user, conversation, message = of_another_tenant(agent)

    whole, one = palaver("show", conversation).json, palaver("show", message).json

    assert ["What is due today?", "Nothing."] == [said["content"] for said in whole["messages"]]
    assert whole == one
    assert user == whole["user_id"]


def test_the_inactive_of_all_tenants_are_purged(palaver: Palaver, agent: Path) -> None:
    before = len(palaver("query", "User", "--limit", 500).json["data"])
    of_another_tenant(agent)

    nobody = palaver("purge", "--inactive-since", "3650d", "--dry-run").json
    counted = palaver("purge", "--inactive-since", "0s", "--dry-run").json
    done = palaver("purge", "--inactive-since", "0s", "--yes").json

    assert (0, 0) == (nobody["people"], nobody["total"])
    assert before + 1 == counted["people"] == done["people"]
    assert before + 1 == done["deleted"]["User"]
    assert done["masked"]["Feedback"]
    assert [] == palaver("query", "User").json["data"]
    ratings = palaver("query", "Feedback", "--limit", 500).json["data"]
    assert ratings
    assert not any("comment" in rating for rating in ratings)


def test_what_is_not_confirmed_is_said_in_a_sentence(palaver: Palaver, agent: Path) -> None:
    [user, *_] = palaver("query", "User").json["data"]

    refused = palaver("purge", user["user_id"])

    assert Exit.USAGE == refused.code
    assert "people needs" not in refused.problem["detail"]
    assert refused.problem["detail"].endswith("of 1 person needs --yes where nobody can be asked.")


def test_a_tenant_that_is_a_field_is_asked_for_as_a_field(palaver: Palaver, agent: Path) -> None:
    user, _, _ = of_another_tenant(agent)

    bound = palaver("query", "User", "--tenant", "acme")

    assert (Exit.USAGE, "no_tenants") == (bound.code, bound.problem["code"])
    assert "--where tenant=acme" in bound.problem["hint"]
    assert [user] == [each["user_id"] for each in palaver("query", "User", "--where", "tenant=acme").json["data"]]


def test_a_key_is_shown_whole_however_long_it_is(palaver: Palaver, agent: Path) -> None:
    async def log_in() -> str:
        async with (
            library.open(str(agent), schema=simple_agent.SCHEMA, maintain=False) as store,
            await simple_agent.capabilities(store) as running,
        ):
            return (await SimpleAgent(store, running).log_in("web", "ann")).session.id

    shown = asyncio.run(log_in())

    assert 64 == len(shown)
    assert shown in palaver("query", "LoginSession", "--human").out.split()
