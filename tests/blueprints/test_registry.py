"""Blueprints are found by name, and are what the console and the adapters expect."""

from __future__ import annotations

import pytest

import palaver
from palaver import Schema
from palaver.blueprints import BLUEPRINTS, load
from palaver.blueprints.baller import SCHEMA, Baller
from palaver.errors import ConfigError
from palaver.turns import Transcripts


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_has_a_schema_of_its_name(name: str) -> None:
    schema = load(name).SCHEMA
    assert isinstance(schema, Schema)
    assert name == schema.name


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="baller"):
        load("bellar")


async def test_baller_is_a_transcripts() -> None:
    async with palaver.open("memory:", schema=SCHEMA) as store:
        shown: Transcripts = Baller(store)
        assert isinstance(shown, Transcripts)
        await shown.append("u", "c", "user", "Hello?")
        await shown.append("u", "c", "assistant", "Hello.")
        assert ["Hello?", "Hello."] == [said.content async for said in shown.transcript("u", "c")]
        [chat] = (await shown.chats()).items
        assert ("u", "c", 2) == (chat.user_id, chat.conversation_id, chat.messages)
