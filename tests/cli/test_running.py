"""Flags, limits, presence and sessions of a running application, seen and changed from the command line through its Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver as library
from palaver.blueprints import simple_agent
from palaver.blueprints.simple_agent import SCHEMA, capabilities
from palaver.cli.exits import Exit
from tests import servers
from tests.cli.conftest import Palaver
from tests.cli.test_contract import shape


@pytest.fixture(scope="module")
def redis() -> Iterator[servers.Redis]:
    server = servers.start_redis()
    yield server
    server.close()


@pytest.fixture
def url(redis: servers.Redis, tmp_path: Path) -> str:
    """An agent's database in which somebody was active, used up some limits, and has two sessions."""
    address = f"sqlite:///{tmp_path}/agent.db?sync=normal&cache={quote(f'{redis.url}?prefix={tmp_path.name[-30:]}', safe='')}"

    async def run() -> None:
        async with library.open(address, schema=SCHEMA, maintain=False) as store, await capabilities(store) as running:
            assert running.limits is not None
            assert running.presence is not None
            assert running.sessions is not None
            for _ in range(3):
                await running.limits.enforce("message", user="ana")
            await running.presence.touch("ana", "discord", "web")
            await running.presence.touch("ben", "discord")
            await running.sessions.start("ana")
            await running.sessions.start("ana")

    asyncio.run(run())
    return address


@pytest.fixture
def there(palaver: Palaver, url: str) -> Palaver:
    return lambda *tokens: palaver(*tokens, "--url", url)


COMMANDS = {
    "flags": ("flags", "list"),
    "flag_set": ("flags", "set", "enable_slash_commands", "true"),
    "flag_unset": ("flags", "unset", "enable_slash_commands"),
    "limits": ("limits", "show", "--user", "ana"),
    "limits_reset": ("limits", "reset", "--user", "ana"),
    "presence": ("presence", "discord"),
    "sessions": ("sessions", "list", "ana"),
    "sessions_ended": ("sessions", "end", "ana"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_fields_of_a_command_are_those_promised(there: Palaver, golden: Callable[[str, str], None], name: str) -> None:
    ran = there(*COMMANDS[name])
    assert 0 == ran.code, ran.err
    assert name == ran.json["kind"]
    golden(f"cli/{name}.json", json.dumps(shape(ran.json), indent=2, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("name", ["flags", "limits", "presence"])
def test_tables_for_people_are_as_they_were(there: Palaver, golden: Callable[[str, str], None], name: str) -> None:
    asked = COMMANDS["presence"][:1] if name == "presence" else COMMANDS[name]
    ran = there(*asked, "--human")
    assert 0 == ran.code, ran.err
    golden(f"cli/{name}.txt", ran.out)


def flag(ran: Any, name: str) -> Any:
    return next(each for each in ran.json["data"] if each["name"] == name)


def test_a_flag_is_set_for_everybody_for_one_and_for_a_share_and_taken_back(there: Palaver) -> None:
    assert [] == flag(there("flags", "list"), "max_conversation_length")["settings"]
    assert 0 == there("flags", "set", "max_conversation_length", "20", "--reason", "load").code
    assert 0 == there("flags", "set", "max_conversation_length", "30", "--target", "user=ana").code
    assert 0 == there("flags", "set", "enable_slash_commands", "--percent", "12.5").code

    settings = flag(there("flags", "list"), "max_conversation_length")["settings"]
    assert [("everybody", 20, "cli", "load"), ("user", 30, "cli", "")] == [
        (each["scope"], each["value"], each["by"], each["reason"]) for each in settings
    ]
    (share,) = flag(there("flags", "list"), "enable_slash_commands")["settings"]
    assert (True, 12.5) == (share["value"], share["percent"])

    assert 0 == there("flags", "unset", "max_conversation_length").code
    assert 0 == there("flags", "unset", "enable_slash_commands", "--rollout").code
    assert ["user"] == [each["scope"] for each in flag(there("flags", "list"), "max_conversation_length")["settings"]]
    assert [] == flag(there("flags", "list"), "enable_slash_commands")["settings"]


@pytest.mark.parametrize(
    ("tokens", "code", "said"),
    [
        (("flags", "set", "max_conversation_lenght", "20"), Exit.USAGE, "max_conversation_length"),
        (("flags", "set", "max_conversation_length", "many"), Exit.USAGE, "takes a whole number; this was read as a text"),
        (("flags", "set", "enable_slash_commands", "yes"), Exit.USAGE, "takes true or false; this was read as a text.Write `palaver"),
        (("flags", "set", "enable_slash_commands", "1"), Exit.USAGE, "takes true or false; this was read as a whole number"),
        (("flags", "set", "enable_slash_commands", "true", "--for", "user=ana"), Exit.USAGE, "Did you mean --target?"),
        (("flags", "set", "enable_slash_commands", "true", "--reson", "x"), Exit.USAGE, "Did you mean --reason?"),
        (("flags", "set", "enable_slash_commands", "true", "--xyzzy"), Exit.USAGE, "This command has --percent, --reason, --target."),
        (("flags", "set", "max_conversation_length", "true"), Exit.USAGE, "takes a whole number; this was read as true or false"),
        (("flags", "set", "max_conversation_length"), Exit.USAGE, "no value"),
        (("flags", "set", "max_conversation_length", "1", "--target", "planet=mars"), Exit.USAGE, "user, channel"),
        (("flags", "set", "enable_slash_commands", "--percent", "200"), Exit.USAGE, "0 to 100"),
        (("flags", "set", "enable_slash_commands", "--percent", "2", "--target", "user=a"), Exit.USAGE, "--percent"),
        (("limits", "show", "fishing"), Exit.NOT_FOUND, "webhook"),
        (("limits", "show", "--by", "account"), Exit.USAGE, "account=acme"),
        (("limits", "reset"), Exit.USAGE, "--user"),
        (("sessions", "end", "ana", "--id", "0" * 64), Exit.NOT_FOUND, "sessions list"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(there: Palaver, tokens: tuple[str, ...], code: Exit, said: str) -> None:
    ran = there(*tokens)
    assert code == ran.code, ran.err
    assert said in ran.problem["detail"] + ran.problem["hint"]
    assert "Traceback" not in ran.err


def test_limits_show_what_is_left_and_charge_nothing(there: Palaver) -> None:
    for _ in range(2):
        told = there("limits", "show", "--user", "ana").json
        assert [("user-minute", 57, 60)] == [(each["name"], each["remaining"], each["amount"]) for each in told["left"]]
        assert told["shared"]
    assert 60 == there("limits", "show", "--user", "ben").json["left"][0]["remaining"]
    assert 0 == there("limits", "reset", "--user", "ana").code
    assert 60 == there("limits", "show", "--user", "ana").json["left"][0]["remaining"]
    assert {"message", "webhook", "newcomer"} == {rule["operation"] for rule in there("limits", "show").json["rules"]}


def test_presence_counts_channels_and_names_members(there: Palaver) -> None:
    assert {"discord": 2, "web": 1} == {each["channel"]: each["active"] for each in there("presence").json["channels"]}
    assert {"ana", "ben"} == {each["member"] for each in there("presence", "discord").json["members"]}


def test_sessions_are_listed_and_ended_without_their_tokens(there: Palaver) -> None:
    first, second = there("sessions", "list", "ana").json["data"]
    assert {"id", "started", "ends"} == set(first)
    assert 1 == there("sessions", "end", "ana", "--id", first["id"]).json["ended"]
    assert [second["id"]] == [each["id"] for each in there("sessions", "list", "ana").json["data"]]
    assert 1 == there("sessions", "end", "ana").json["ended"]
    assert [] == there("sessions", "list", "ana").json["data"]


def test_a_cache_of_this_process_alone_is_said_to_be_one(palaver: Palaver, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/own.db"

    async def make() -> None:
        async with library.open(address, schema=SCHEMA, maintain=False):
            pass

    asyncio.run(make())
    ran = palaver("limits", "show", "--user", "ana", "-u", address)
    assert ran.json["shared"] is False
    assert "own memory" in ran.err


def test_a_redis_that_is_away_is_named(palaver: Palaver, url: str) -> None:
    away = url.split("&cache=")[0] + "&cache=" + quote("redis://u:s3cret@127.0.0.1:1/0?connect=0.2", safe="")
    away_with_it: list[tuple[str, ...]] = [("limits", "show", "--user", "ana"), ("presence",)]
    for tokens in away_with_it:
        ran = palaver(*tokens, "-u", away)
        assert Exit.UNAVAILABLE == ran.code, (tokens, ran.err)
        assert "unavailable" == ran.problem["code"]
        assert "s3cret" not in ran.err
    recorded: list[tuple[str, ...]] = [("flags", "list"), ("sessions", "list", "ana"), ("sessions", "end", "ana")]
    for tokens in recorded:
        assert 0 == palaver(*tokens, "-u", away).code, "these are in the records"
    told = palaver("health", "-u", away)
    assert (Exit.PARTIAL, "down") == (told.code, told.json["components"]["cache"]["state"])
    assert 0 == palaver("health", "--ready", "-u", away).code


def test_an_application_that_declares_none_is_told_how(palaver: Palaver, demo: Path) -> None:
    for tokens in (("flags", "list"), ("limits", "show"), ("presence",), ("sessions", "list", "ana")):
        ran = palaver(*tokens)
        assert Exit.USAGE == ran.code
        assert "async def capabilities(store)" in ran.problem["hint"]


MINE = """
from palaver import Entity, Key, Schema
from palaver.caching import Limit
from palaver.capabilities import Capabilities
from palaver.limits import Limits, Rule


class Note(Entity, table="notes"):
    id: str
    key = Key("id")


SCHEMA = Schema("mine", [Note])


async def capabilities(store):
    return Capabilities(limits=Limits(store.cache, {"ask": (Rule(Limit("asks", 5, 60)),)}, clock=store.clock))
"""


def test_a_schema_of_ones_own_has_them_the_same_way(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "mine_of_cli.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(elsewhere))
    asyncio.run(_made(elsewhere))
    ran = palaver("limits", "show", "--schema", "mine_of_cli:SCHEMA", "-u", "mine.db")
    assert ["asks"] == [rule["rule"] for rule in ran.json["rules"]], ran.err


async def _made(folder: Path) -> None:
    import importlib

    module = importlib.import_module("mine_of_cli")
    async with library.open(f"sqlite:///{folder}/mine.db", schema=module.SCHEMA, maintain=False):
        pass


def test_the_blueprint_and_the_command_line_show_the_same_rules(there: Palaver) -> None:
    rules = there("limits", "show").json["rules"]
    assert {(name, rule.name) for name, several in simple_agent.RULES.items() for rule in several} == {
        (rule["operation"], rule["rule"]) for rule in rules
    }
