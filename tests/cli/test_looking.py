"""show, search, query, stats and tail, off a terminal and for people."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("demo")


def shown(palaver: Palaver, id: str) -> Any:
    return palaver("show", id).json


def test_a_conversation_is_shown_with_every_step_of_every_answer(palaver: Palaver) -> None:
    found = shown(palaver, "talk-0007")

    assert "talk-0007" == found["conversation_id"]
    questions = [message for message in found["messages"] if message["role"] == "user"]
    assert questions
    for question in questions:
        assert {"relevance", "llm_call"} <= {step["kind"] for step in question["steps"]}
        assert all(step["latency"] is None or step["latency"] >= 0 for step in question["steps"])


def test_a_message_is_shown_with_its_answer_alone(palaver: Palaver) -> None:
    whole = shown(palaver, "talk-0007")["messages"]

    found = shown(palaver, whole[0]["message_id"])["messages"]

    assert [message["message_id"] for message in whole[:2]] == [message["message_id"] for message in found]


def test_only_the_last_messages_can_be_shown(palaver: Palaver) -> None:
    whole = shown(palaver, "talk-0007")["messages"]

    assert [whole[-1]["message_id"]] == [message["message_id"] for message in palaver("show", "talk-0007", "--last", 1).json["messages"]]


def test_a_conversation_is_written_as_markdown(palaver: Palaver) -> None:
    ran = palaver("show", "talk-0007", "--md")

    assert ran.out.startswith("# talk-0007\n\n**user** · ")
    assert "- llm_call `" in ran.out


def test_people_read_who_said_what_and_how_long_each_step_took(palaver: Palaver) -> None:
    ran = palaver("show", "talk-0007", "--human", "--full")

    assert "▸ user" in ran.out
    assert "◂ assistant" in ran.out
    assert " ms" in ran.out
    assert "prompt:" in ran.out


def test_a_search_finds_what_was_said_and_marks_it(palaver: Palaver) -> None:
    found = palaver("search", "dortmund", "--facets", "intent.name", "--limit", 3).json

    assert 0 < len(found["data"]) <= 3 <= found["total"]
    assert all("**dortmund**" in str(hit["highlights"]).lower() for hit in found["data"])
    assert found["facets"]["intent.name"]


def test_a_search_is_narrowed_by_typed_filters(palaver: Palaver) -> None:
    beta = palaver("search", "--where", "app_mode=beta", "--where", "timestamp>=7d", "--limit", 100).json

    assert beta["data"]
    assert {"beta"} == {hit["record"]["app_mode"] for hit in beta["data"]}
    assert 0 == palaver("search", "--where", "timestamp<2001-01-01").json["total"]


def test_people_read_hits_with_what_show_takes(palaver: Palaver) -> None:
    ran = palaver("search", "dortmund", "--human", "--facets", "app_mode")

    assert "Message talk-" in ran.out
    assert " hits" in ran.err


def test_a_query_reads_through_an_index_in_its_order(palaver: Palaver) -> None:
    found = palaver("query", "Message", "result", "--by", "by_intent", "--newest-first", "--limit", 5).json

    times = [record["timestamp"] for record in found["data"]]
    assert sorted(times, reverse=True) == times
    assert {"result"} == {record["intent"]["name"] for record in found["data"]}


def test_pages_of_a_query_are_the_whole_query(palaver: Palaver) -> None:
    arguments = ("query", "Message", "result", "--by", "by_intent", "--where", "intent.confidence>0.7")
    whole = palaver(*arguments, "--limit", 1000).json
    seen, cursor = [], None
    for _ in range(100):
        page = palaver(*arguments, "--limit", 3, *(("--cursor", cursor) if cursor else ())).json
        seen += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert not whole["has_more"]
    assert len(whole["data"]) > 6
    assert whole["data"] == seen


def test_a_query_is_narrowed_between_two_values(palaver: Palaver) -> None:
    all_of_it = palaver("query", "Message", "result", "--by", "by_intent", "--count").json["count"]

    assert all_of_it == palaver("query", "Message", "result", "--by", "by_intent", "--between", "7d", "0s", "--count").json["count"]
    assert 0 == palaver("query", "Message", "result", "--by", "by_intent", "--between", "2001-01-01", "2001-02-01", "--count").json["count"]


def test_a_unique_set_is_looked_up(palaver: Palaver) -> None:
    first = shown(palaver, "talk-0007")["messages"][0]

    found = palaver("query", "message", first["message_id"], "--by", "by_platform_id").json

    assert [first["message_id"]] == [record["message_id"] for record in found["data"]]
    assert [] == palaver("query", "message", "1", "--by", "by_platform_id").json["data"]


def test_a_query_without_values_shows_some_records_and_names_the_indexes(palaver: Palaver) -> None:
    ran = palaver("query", "baller-feedback", "--where", "rating=positive", "--limit", 2)

    assert ["positive", "positive"] == [record["rating"] for record in ran.json["data"]]
    assert "by_app_mode" in ran.err


def test_people_read_a_record_a_line_with_its_whole_key(palaver: Palaver) -> None:
    ran = palaver("query", "Message", "result", "--by", "by_intent", "--limit", 5, "--human")

    heading, *lines = ran.out.splitlines()
    assert ["conversation_id", "message_id", "timestamp", "content"] == heading.split()[:4]
    assert 5 == len(lines)
    assert all(len(line.split()[1]) == 19 for line in lines)


def test_a_query_says_what_it_would_send(palaver: Palaver) -> None:
    found = palaver("query", "Message", "result", "--by", "by_intent", "--where", "content~=a", "--explain").json

    assert any("IntentIndex" in step for step in found["steps"])
    assert found["warnings"]
    assert "IntentIndex" in palaver("query", "Message", "result", "--by", "by_intent", "--explain", "--human").out


@pytest.mark.parametrize("kind", ["usage", "calls", "answers", "feedback", "metrics"])
def test_statistics_have_a_line_for_each_group(palaver: Palaver, kind: str) -> None:
    found = palaver("stats", kind).json

    assert kind == found["stats"]
    if kind != "metrics":
        assert found["data"]


def test_usage_adds_up_whatever_it_is_grouped_by(palaver: Palaver) -> None:
    grouped = [palaver("stats", "usage", *options).json["data"] for options in ((), ("--by", "purpose", "--by", "day"))]

    sums = [(sum(row["count"] for row in rows), sum(row["prompt_tokens"] for row in rows)) for rows in grouped]
    assert sums[0] == sums[1]
    assert all(row["p50"] <= row["p90"] <= row["p99"] for rows in grouped for row in rows)


@pytest.mark.parametrize(
    ("kind", "options", "any_record"),
    [
        ("usage", (), "prompt_tokens>=0"),
        ("usage", ("--by", "day", "--by", "purpose"), "prompt_tokens>=0"),
        ("usage", ("--where", "provider=openai", "--by", "app_mode"), "prompt_tokens>=0"),
        ("calls", (), "timestamp>=2000-01-01"),
        ("calls", ("--where", "app_mode=production", "--by", "day"), "timestamp>=2000-01-01"),
        ("answers", (), "timestamp>=2000-01-01"),
        ("answers", ("--by", "day"), "timestamp>=2000-01-01"),
    ],
)
def test_what_is_counted_per_day_equals_what_a_scan_adds_up(
    palaver: Palaver, monkeypatch: pytest.MonkeyPatch, kind: str, options: tuple[str, ...], any_record: str
) -> None:
    from palaver.cli import reading

    scanned = palaver("stats", kind, *options, "--where", any_record, "--since", "60d").json["data"]

    monkeypatch.setattr(reading, "scan", None)
    assert scanned
    assert scanned == palaver("stats", kind, *options, "--since", "60d").json["data"]


def test_feedback_of_a_period_is_read_through_its_index(palaver: Palaver, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.cli import reading

    monkeypatch.setattr(reading, "scan", None)
    rows = palaver("stats", "feedback", "--since", "60d", "--by", "rating").json["data"]
    connection = sqlite3.connect("palaver-demo.db")
    stored = connection.execute('SELECT rating, count(*) FROM "baller-feedback" GROUP BY rating ORDER BY rating').fetchall()
    connection.close()

    assert stored == [(row["rating"], row["ratings"]) for row in rows]


def test_counts_begin_with_the_day(palaver: Palaver) -> None:
    assert palaver("stats", "usage", "--since", "36h").json["since"].endswith("T00:00:00+00:00")


def test_statistics_outlive_the_calls_they_are_of(palaver: Palaver) -> None:
    before = palaver("stats", "usage", "--since", "60d").json["data"]

    assert 0 == palaver("purge", "--inactive-since", "0s", "--yes").code
    assert 0 == palaver("query", "LlmInteraction", "main_response", "--by", "by_purpose", "--count").json["count"]
    assert before == palaver("stats", "usage", "--since", "60d").json["data"]


def test_where_nothing_was_counted_the_records_are_scanned(palaver: Palaver, demo: Path) -> None:
    counted = palaver("stats", "usage", "--since", "60d").json["data"]
    connection = sqlite3.connect(demo)
    for table in ("baller-usage", "baller-metrics"):
        connection.execute(f'DELETE FROM "{table}"')
    connection.commit()
    connection.close()

    assert counted == palaver("stats", "usage", "--since", "60d").json["data"]
    assert palaver("stats", "calls", "--since", "60d").json["data"]


def test_people_read_statistics_as_a_table(palaver: Palaver) -> None:
    ran = palaver("stats", "usage", "--human")

    assert "deepseek-chat" in ran.out
    assert "p99" in ran.out


def test_what_was_written_is_followed_from_the_start(palaver: Palaver) -> None:
    lines = palaver("tail", "Message", "LlmInteraction", "--once").lines

    assert {"Message", "LlmInteraction"} == {line["entity"] for line in lines}
    assert {"created"} == {line["change"] for line in lines}
    assert [line["position"] for line in lines] == sorted(line["position"] for line in lines)


def test_following_ends_after_as_many_lines_as_asked(palaver: Palaver) -> None:
    assert 7 == len(palaver("tail", "--from-start", "--max", 7).lines)
    assert 7 == len(palaver("tail", "--from-start", "--max", 7, "--human").out.splitlines())


def test_text_that_steers_a_terminal_is_written_out(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "notes.py").write_text(
        "from palaver import Entity, Key, Schema\n"
        "class Note(Entity, table='notes'):\n"
        "    id: str\n"
        "    text: str\n"
        "    key = Key('id')\n"
        "SCHEMA = Schema('notes', [Note])\n"
    )
    import palaver as library
    from palaver.cli.context import schema_module

    module: Any = schema_module("notes:SCHEMA")
    with library.open_sync("notes.db", schema=module.SCHEMA) as store:
        store.create(module.Note(id="1", text="\x1b[2Jgone\u202e"))

    ran = palaver("query", "Note", "1", "-u", "notes.db", "--schema", "notes:SCHEMA", "--human")

    assert "\x1b" not in ran.out
    assert "\\x1b[2Jgone\\x202e" in ran.out


def test_looking_changes_nothing(palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.blueprints.baller import SCHEMA

    # As after an update of the program: the schema has another fingerprint than the one kept with the data.
    monkeypatch.setattr(type(SCHEMA), "fingerprint", "changed")
    before = demo.read_bytes()
    for tokens in (
        ("show", "talk-0007"),
        ("search", "dortmund"),
        ("query", "Message"),
        ("stats", "usage"),
        ("tail", "--once"),
        ("export", "Feedback"),
        ("health",),
        ("doctor",),
        ("schema", "check"),
        ("migrate", "plan"),
        ("purge", "201000000000000000", "--dry-run"),
    ):
        assert 0 == palaver(*tokens).code, tokens
        assert before == demo.read_bytes(), tokens


def test_a_database_that_cannot_be_written_can_be_looked_at(palaver: Palaver, demo: Path) -> None:
    from palaver.cli.exits import Exit

    url = ("-u", "sqlite:///palaver-demo.db?read_only=true")
    for tokens in (("show", "talk-0007"), ("search", "dortmund"), ("query", "Message"), ("stats", "usage"), ("health",), ("doctor",)):
        assert 0 == palaver(*tokens, *url).code, tokens
    refused = palaver("purge", "201000000000000000", "--yes", *url)
    assert (Exit.FAILURE, "read_only") == (refused.code, refused.problem["code"])
