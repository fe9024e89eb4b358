"""Input nobody here wrote: football clubs and matches, recorded dialogues, a busy channel, and strings that break things."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from palaver.blueprints.baller import Baller, patterns
from palaver.errors import Validation
from palaver.markers import INLINE
from palaver.turns.transcripts import Said
from tests.blueprints.baller.conftest import Opened
from tests.blueprints.baller.given import found

T = TypeVar("T")
TOGETHER = 32


def rows(file: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in data.decode().split("\n") if line]


async def side_by_side(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Run work on every item, a few at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(TOGETHER)))


# --- football ---------------------------------------------------------------------------------------------------------


async def test_every_club_is_found_by_every_name_and_every_match_is_kept(baller: Baller, shared_data: Path) -> None:
    clubs, matches = rows(shared_data / "football" / "clubs.jsonl"), rows(shared_data / "football" / "matches.jsonl")
    assert (546, 1_161, 1_446) == (len(clubs), sum(len(club["aliases"]) for club in clubs), len(matches))

    async def put(numbered: tuple[int, dict[str, Any]]) -> None:
        number, club = numbered
        metadata = {name: club[name] for name in ("country", "ground", "city", "founded")}
        await baller.entities.put("team", f"{number}", club["name"], aliases=[a["name"] for a in club["aliases"]], metadata=metadata)

    await side_by_side(put, enumerate(clubs))
    seasons: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for match in matches:
        seasons[f"{match['league']}/{match['season']}"].append(match)
    for season, played in seasons.items():
        await baller.entities.put("competition", season, played[0]["league_name"], metadata={"matches": played})  # type: ignore[dict-item]

    async def check(numbered: tuple[int, dict[str, Any]]) -> None:
        number, club = numbered
        for name in (club["name"], *(alias["name"] for alias in club["aliases"])):
            assert f"{number}" in {team.entity_id for team in await baller.entities.look_up("team", name)}

    await side_by_side(check, enumerate(clubs))
    names = {match[side] for match in matches for side in ("team1", "team2")}
    assert 61 == len(names)
    for name in names:
        team = await baller.entities.resolve("team", name.upper())
        assert team is not None
        assert name in (team.name, *team.aliases)
    kept: list[Any] = []
    for competition in await found(baller, patterns.entities_of_type("competition")):
        kept.extend(competition.metadata["matches"])  # type: ignore[arg-type]
    assert sorted(matches, key=lambda match: match["id"]) == sorted(kept, key=lambda match: match["id"])


# --- dialogues --------------------------------------------------------------------------------------------------------


def calls_of(turn: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(f"/{call.get('service', 'shop')}/{call['name']}", call.get("request"), call.get("response")) for call in turn.get("calls", [])]


def parameters(request: Any) -> dict[str, Any]:
    return request if isinstance(request, dict) else {"text": request}


async def record(baller: Baller, dialogue: dict[str, Any]) -> None:
    """Record a dialogue: what the assistant called to answer belongs to the question's turn."""
    user, conversation = f"user of {dialogue['id']}", dialogue["id"]
    said = dialogue["turns"]
    at = 0
    while at < len(said):
        if said[at]["role"] == "assistant":
            await baller.append(user, conversation, "assistant", said[at]["text"])
            at += 1
            continue
        async with baller.turn(user_id=user, conversation_id=conversation, server_id="s", content=said[at]["text"]) as turn:
            if said[at].get("intents"):
                await turn.intent(said[at]["intents"][0])
            answered = at + 1 < len(said) and said[at + 1]["role"] == "assistant"
            for endpoint, request, response in [*calls_of(said[at]), *(calls_of(said[at + 1]) if answered else [])]:
                async with turn.api_call(endpoint, parameters(request)) as call:
                    call.response(200, response)
            if answered:
                await turn.reply(said[at + 1]["text"])
        at += 2 if answered else 1


async def check(baller: Baller, dialogue: dict[str, Any]) -> int:
    """Compare a transcript with the dialogue, turn by turn and call by call; return how many calls there were."""
    read: list[Said] = [entry async for entry in baller.transcript(f"user of {dialogue['id']}", dialogue["id"])]
    assert [(turn["role"], turn["text"]) for turn in dialogue["turns"]] == [(entry.role, entry.content) for entry in read]
    calls = 0
    for number, entry in enumerate(read):
        if entry.role != "user":
            continue
        expected = calls_of(dialogue["turns"][number])
        if number + 1 < len(read) and read[number + 1].role == "assistant":
            expected += calls_of(dialogue["turns"][number + 1])
        assert [(name, parameters(request), response) for name, request, response in expected] == [
            (step.name, step.detail["parameters"], step.detail["response"]) for step in entry.steps if step.kind == "api_call"
        ]
        calls += len(expected)
    return calls


async def recorded(baller: Baller, dialogues: Sequence[dict[str, Any]]) -> int:
    calls: list[int] = []

    async def count(dialogue: dict[str, Any]) -> None:
        calls.append(await check(baller, dialogue))

    await side_by_side(lambda dialogue: record(baller, dialogue), dialogues)
    await side_by_side(count, dialogues)
    return sum(calls)


async def is_found(baller: Baller, dialogues: Sequence[dict[str, Any]]) -> None:
    """Search a few messages by their own words: each is among what is found."""
    await baller.store.settle(120)
    for dialogue in dialogues[:: max(1, len(dialogues) // 40)]:
        text = max((turn["text"] for turn in dialogue["turns"]), key=len)
        hits = await baller.search(f'"{text}"', user_id=f"user of {dialogue['id']}")
        assert text in {hit.content for hit in hits}


# One stack takes everything in every run; the others a part, and everything in the long run.
PART = {"memory": 8, "sqlite": 1, "postgresql": 8, "dynamodb": 40}
every_stack = pytest.mark.parametrize("stack", ["memory", "postgresql", "dynamodb"])


async def every_schema_guided_dialogue(baller: Baller, dialogues: Sequence[dict[str, Any]]) -> int:
    calls = await recorded(baller, dialogues)
    await is_found(baller, dialogues)
    counted = [await baller.conversation(f"user of {d['id']}", d["id"]) for d in dialogues]
    said = sum(len(dialogue["turns"]) for dialogue in dialogues)
    assert said == sum(conversation.metrics.message_count for conversation in counted)
    return calls


async def test_schema_guided_dialogues_are_read_back_as_they_were(baller: Baller, stack: str, shared_data: Path) -> None:
    dialogues = rows(shared_data / "dialogs" / "sgd.jsonl.gz")
    assert (1_400, 25_800) == (len(dialogues), sum(len(dialogue["turns"]) for dialogue in dialogues))
    calls = await every_schema_guided_dialogue(baller, dialogues[:: PART[stack]])
    assert {1: 4_003, 8: 508, 40: 100}[PART[stack]] == calls


async def test_ordering_dialogues_are_read_back_as_they_were(baller: Baller, stack: str, shared_data: Path) -> None:
    dialogues = rows(shared_data / "dialogs" / "taskmaster4-coffee.jsonl.gz")
    assert 600 == len(dialogues)
    assert {1: 2_473, 8: 312, 40: 61}[PART[stack]] == await recorded(baller, dialogues[:: PART[stack]])
    await is_found(baller, dialogues[:: PART[stack]])


@pytest.mark.soak
@every_stack
async def test_every_dialogue_is_read_back_as_it_was(baller: Baller, shared_data: Path) -> None:
    assert 4_003 == await every_schema_guided_dialogue(baller, rows(shared_data / "dialogs" / "sgd.jsonl.gz"))
    assert 2_473 == await recorded(baller, rows(shared_data / "dialogs" / "taskmaster4-coffee.jsonl.gz"))


# --- a busy channel ---------------------------------------------------------------------------------------------------


async def busy_server(baller: Baller, lines: Sequence[dict[str, Any]]) -> None:
    spoken: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in lines:
        spoken[line.get("nick") or "*", line["log"]].append(line["text"])

    async def speak(one: tuple[tuple[str, str], list[str]]) -> None:
        (nick, channel), texts = one
        for text in texts:
            async with baller.turn(user_id=nick, server_id="ubuntu", channel_id=channel, content=text):
                pass

    await side_by_side(speak, spoken.items())
    conversations = await found(baller, patterns.conversations_of_server("ubuntu"))
    assert len(lines) == sum(conversation.metrics.message_count for conversation in conversations)
    read: dict[tuple[str, str], list[str]] = {}

    async def listen(conversation: Any) -> None:
        messages = await found(baller, patterns.messages_of_conversation(conversation.conversation_id))
        read[conversation.user_id, conversation.channel_id] = [message.content for message in messages]

    await side_by_side(listen, conversations)
    assert spoken == read


async def test_a_busy_server_of_many_people_at_once_loses_nothing(baller: Baller, stack: str, shared_data: Path) -> None:
    lines = rows(shared_data / "dialogs" / "irc-ubuntu.jsonl.gz")
    assert 12_500 == len(lines)
    await busy_server(baller, lines[: len(lines) // PART[stack]])


@pytest.mark.soak
@every_stack
async def test_the_whole_channel_loses_nothing(baller: Baller, shared_data: Path) -> None:
    lines = rows(shared_data / "dialogs" / "irc-ubuntu.jsonl.gz")
    assert 12_500 == len(lines)
    await busy_server(baller, lines)


# --- strings that break things ----------------------------------------------------------------------------------------


async def through(baller: Baller, number: int, text: str) -> None:
    """Take one string through every path, as content, as a name, and as every identifier."""
    user, server, conversation = f"{text}", f"{text}", f"{number} {text}"
    # Just over what a record holds itself: the answer is an object, and no longer than that takes.
    long = text * (INLINE // max(1, len(text)) + 1)
    async with baller.turn(user_id=user, server_id=server, channel_id=text, conversation_id=conversation, content=text) as turn:
        await turn.relevance(is_relevant=True, explanation=text, raw_response=text)
        await turn.intent(
            text[:200] or "none", api_resource=text, api_params={text: text}, entities=[{"name": text, "id": text, "type": text}]
        )
        await turn.context({text: [text]})
        async with turn.api_call(text, {text: text}) as api:
            api.response(200, {text: text})
        async with turn.llm_call(provider=text[:200] or "p", model=text[:200] or "m", purpose="main_response") as llm:
            llm.result(text, long)
        answer = await turn.reply(text)
    await baller.give_feedback(answer, user_id=user, rating="positive", follow_up=text)
    await baller.set_preferences(user, server, username=text, followed_teams=[text])
    await baller.entities.put("team", text, text, aliases=[text.upper()], metadata={text: text})
    said = [entry async for entry in baller.transcript(user, conversation)]
    assert [text, text] == [entry.content for entry in said]
    assert {text: [text]} == next(step for step in said[0].steps if step.kind == "context").detail
    [api_call] = await found(baller, patterns.api_calls_of_message(turn.message_id))
    assert (text, {text: text}, {text: text}) == (api_call.endpoint, api_call.parameters, api_call.response)
    [llm_call] = await found(baller, patterns.llm_calls_of_message(turn.message_id))
    assert llm_call.exchange is not None
    assert long == llm_call.exchange.response
    held = await baller.preferences(user, server)
    assert held is not None
    assert (text, [text]) == (held.username, held.followed_teams)
    assert text in {team.name for team in await baller.entities.look_up("team", text)}
    await baller.search(text)


async def test_every_naughty_string_but_the_empty_one_passes_through_every_path(opened: Opened, shared_data: Path) -> None:
    strings = [row["text"] for row in rows(shared_data / "hostile" / "naughty-strings.jsonl")]
    refused: list[str] = []
    async with opened() as baller:

        async def take(numbered: tuple[int, str]) -> None:
            number, text = numbered
            try:
                await through(baller, number, text)
            except Validation:
                refused.append(text)

        await side_by_side(take, enumerate(strings))
        await baller.store.settle(60)
    # Nobody is called nothing; everything else is somebody's name.
    assert [""] == refused


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "\udfff tail"])
async def test_what_no_engine_can_store_is_refused_as_anything(baller: Baller, text: str) -> None:
    for arguments in ({"content": text}, {"content": "?", "user_id": text}, {"content": "?", "server_id": text}):
        with pytest.raises(Validation) as caught:
            async with baller.turn(**{"user_id": "u", **arguments}):  # type: ignore[arg-type]
                raise AssertionError
        assert text not in str(caught.value)
    with pytest.raises(Validation):
        await baller.entities.put("team", "1", text)
    with pytest.raises(Validation):
        await baller.set_preferences("u", username=text)
