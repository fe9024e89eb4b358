"""The agent's conversations as transcripts: listed, read with their steps, appended to, rated and searched."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.blueprints.simple_agent import SimpleAgent, patterns
from palaver.blueprints.simple_agent.schema import ToolCall
from palaver.errors import NotFound
from palaver.ops import Read
from palaver.turns import Transcripts
from tests.blueprints.simple_agent.given import ask, found


async def test_the_agent_is_a_transcripts(agent: SimpleAgent) -> None:
    shown: Transcripts = agent
    assert isinstance(shown, Transcripts)
    await shown.append("u", "c", "user", "Hello?")
    said = await shown.append("u", "c", "assistant", "Hello.")
    assert ["Hello?", "Hello."] == [said.content async for said in shown.transcript("u", "c")]
    [chat] = (await shown.chats()).items
    assert ("u", "c", 2, "console") == (chat.user_id, chat.conversation_id, chat.messages, chat.place)
    await shown.rate(said.message_id, user_id="u", rating="positive")
    await agent.store.settle()
    assert {"Hello?", "Hello."} == {hit.content for hit in await shown.search("hello", user_id="u")}


async def test_conversations_are_listed_page_by_page_newest_first(agent: SimpleAgent, clock: palaver.ManualClock) -> None:
    begun = []
    for n in range(5):
        begun.append((await ask(agent, who=f"{n % 2}")).conversation_id)
        await agent.end(begun[-1])
        clock.advance(palaver.hours(1))
    seen: list[str] = []
    cursor = None
    while True:
        page = await agent.chats(limit=2, cursor=cursor)
        seen += [chat.conversation_id for chat in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert begun[::-1] == seen
    user = await agent.people.resolve("discord", "0")
    mine = await agent.chats(user_id=user.user_id)
    assert begun[::-2] == [chat.conversation_id for chat in mine.items]
    assert {"state": "ended"} == mine.items[0].labels


async def test_a_transcript_shows_every_step_of_every_answer(agent: SimpleAgent) -> None:
    async with agent.message("discord", "ann", "What is due?") as turn:
        await turn.relevance(is_relevant=True, confidence=0.9, explanation="Invoices.")
        await turn.intent("invoices", confidence=0.8, entities=[{"name": "today"}])
        await turn.context({"language": "en"})
        await turn.call_tools([ToolCall(id="1", name="invoices", arguments={"due": "today"})])
        async with turn.api_call("/invoices", {"due": "today"}) as call:
            call.response(200, [1, 2])
        async with turn.llm_call(provider="openai", model="gpt-4o", purpose="reply") as llm:
            llm.result("?", "Two.", {"input_tokens": 5, "output_tokens": 2})
        await turn.reply("Two.")
    for last in (None, 10):
        said = [each async for each in agent.transcript(turn.user_id, turn.conversation_id, last=last)]
        assert [("user", "What is due?"), ("assistant", ""), ("tool", "[1,2]"), ("assistant", "Two.")] == [
            (s.role, s.content) for s in said
        ]
        assert ["relevance", "intent", "context", "llm_call"] == [step.kind for step in said[0].steps]
        assert [("tool_call", "invoices")] == [(step.kind, step.name) for step in said[1].steps]
        [tool] = said[2].steps
        assert ("api_call", "/invoices", {"due": "today"}) == (tool.kind, tool.name, tool.detail["parameters"])
        assert ("answered", 7) == (said[0].status, said[0].steps[-1].detail["total_tokens"])
    assert ["Two."] == [each.content async for each in agent.transcript(turn.user_id, turn.conversation_id, last=1)]


async def test_nobody_reads_somebody_elses_conversation(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    for user, conversation in (("somebody else", turn.conversation_id), (turn.user_id, "nothing")):
        with pytest.raises(NotFound):
            [each async for each in agent.transcript(user, conversation)]
    with pytest.raises(NotFound):
        await agent.append("somebody else", turn.conversation_id, "user", "Mine?")


async def test_appending_goes_on_with_a_conversation_or_ends_another(agent: SimpleAgent) -> None:
    turn = await ask(agent)
    await agent.append(turn.user_id, turn.conversation_id, "user", "Typed by hand.")
    assert 3 == len(await agent.recent_messages(turn.conversation_id))
    await agent.append(turn.user_id, "another", "user", "New.")
    assert ["another"] == [each.conversation_id for each in await found(agent, patterns.active_conversations())]
    await agent.append(turn.user_id, turn.conversation_id, "assistant", "To the old one.")
    assert 4 == (await agent.conversation(turn.conversation_id)).message_count


async def test_appending_where_the_other_conversation_just_ended_leaves_that_as_it_ended(
    agent: SimpleAgent, clock: palaver.ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await ask(agent)
    look = agent.directory.active

    async def looks(user_id: str) -> Any:
        found = await look(user_id)
        if found is not None and found.conversation_id == turn.conversation_id:
            clock.advance(palaver.hours(1))
            await agent.end(turn.conversation_id)
        return found

    monkeypatch.setattr(agent.directory, "active", looks)
    await agent.append(turn.user_id, "another", "user", "New.")
    assert ["another"] == [each.conversation_id for each in await found(agent, patterns.active_conversations())]
    assert clock.now() == (await agent.conversation(turn.conversation_id)).ended_at


async def test_a_whole_transcript_is_three_reads_however_long_it_is(agent: SimpleAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(12):
        turn = await ask(agent, f"{n}")
    reads: list[str] = []
    query = type(agent.store.core.records).query

    async def counted(self: Any, read: Read) -> Any:
        reads.append(read.table)
        return await query(self, read)

    monkeypatch.setattr(type(agent.store.core.records), "query", counted)
    said = [each async for each in agent.transcript(turn.user_id, turn.conversation_id)]
    assert 24 == len(said)
    assert ["messages", "model_calls", "turns"] == sorted(reads)


# --- input nobody here wrote ------------------------------------------------------------------------------------------


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().split("\n") if line]


async def test_real_runs_of_an_agent_with_tools_come_back_as_they_were_said(agent: SimpleAgent, shared_data: Path) -> None:
    """Each run is one person's conversation on one of four channels: system, user, assistant with calls of tools, tools."""
    runs = rows(shared_data / "llm" / "agent-trajectories.jsonl.gz")[:8]
    channels = ("discord", "telegram", "slack", "web")
    tools = 0
    for number, run in enumerate(runs):
        expected = []
        turn = None
        for message in run["messages"]:
            calls = [
                ToolCall(id=call["id"], name=call["function"]["name"], arguments=json.loads(call["function"]["arguments"]))
                for call in message.get("tool_calls") or []
            ]
            content = message.get("content") or ""
            expected.append(
                (message["role"], content, [(call.id, call.name, call.arguments) for call in calls], message.get("tool_call_id"))
            )
            if message["role"] == "user":
                async with agent.message(channels[number % 4], run["id"], content) as turn:
                    pass
            elif turn is not None:
                tools += message["role"] == "tool"
                await turn.say(message["role"], content, tool_calls=calls, tool_call_id=message.get("tool_call_id"))
        assert turn is not None
        while expected[0][0] != "user":
            expected.pop(0)
        read = await found(agent, patterns.messages_of_conversation(turn.conversation_id))
        assert expected == [
            (each.role, each.content, [(call.id, call.name, call.arguments) for call in each.tool_calls], each.tool_call_id)
            for each in read
        ]
        assert [each[1] for each in expected] == [said.content async for said in agent.transcript(turn.user_id, turn.conversation_id)]
    assert tools > 40
