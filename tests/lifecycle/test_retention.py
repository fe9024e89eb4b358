"""The retention of a schema, as data and as sentences."""

from __future__ import annotations

from datetime import timedelta

import pytest

from palaver.clock import days
from palaver.lifecycle.retention import retention_plan, words
from palaver.schema import Schema
from tests.lifecycle.app import ENTITIES, SCHEMA, Conversation, Message


def test_every_rule_of_the_declaration_is_in_the_plan() -> None:
    plan = [kept.sentence for kept in retention_plan(SCHEMA)]
    assert [
        "User: records are kept until they are deleted.",
        "User: images of earlier versions are kept 35 days after each write.",
        "Conversation: records are kept 30 days after last_active.",
        "Message: records are kept 30 days after timestamp.",
        "Message: objects of context are kept 30 days after the record was written.",
        "Feedback: records are kept until they are deleted.",
        "Note: records are kept until they are deleted.",
        "Activity: records are kept until they are deleted.",
        "Counter: records are kept until they are deleted.",
    ] == plan


def test_the_schemas_own_retention_comes_first() -> None:
    schema = Schema("longer", ENTITIES, retention={Message: days(60), Conversation: None})
    plan = {(kept.entity, kept.what): kept for kept in retention_plan(schema)}
    assert days(60) == plan["Message", "records"].after
    assert days(60) == plan["Message", "objects"].after
    assert "Conversation: records are kept until the instant in expires, where one is set." == plan["Conversation", "records"].sentence


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (days(1), "1 day"),
        (days(400), "400 days"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(seconds=1), "1 second"),
    ],
)
def test_a_duration_is_said_in_its_largest_whole_unit(length: timedelta, said: str) -> None:
    assert said == words(length)
