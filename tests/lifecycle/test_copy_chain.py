"""From the file to PostgreSQL, on to DynamoDB, and back into a file: what comes home is what left, to the byte."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import palaver
from palaver.blueprints import baller as blueprint, simple_agent as agent
from palaver.blueprints.baller import SCHEMA, Baller
from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT, ChannelConfig, ChannelCredentials, DataMigration, Exposure
from palaver.lifecycle.copy import Copied, Copy
from palaver.lifecycle.copy_ends import End
from palaver.lifecycle.copy_verify import verify
from palaver.store import Store
from tests import servers
from tests.blueprints.baller.test_real_input import record, rows, side_by_side
from tests.engines.s3 import TestBucket
from tests.lifecycle.app import SCHEMA as EVERYTHING
from tests.lifecycle.copying import credentials, dump, fill, opened, sqlite, url_of
from tests.lifecycle.test_tenants import SCHEMA as TENANTS, Letter, write
from tests.stacks import SEAL_KEYS

__all__ = ["credentials"]

CHAIN = ("postgres", "dynamodb", "sqlite")


async def round_trip(source: End, folder: Path, stack: AsyncExitStack, schema: Any, projections: Any = ()) -> tuple[End, list[Copied]]:
    """Copy from engine to engine; return the last of them."""
    end, reports = source, []
    for kind in CHAIN:
        target = await stack.enter_async_context(opened(url_of(kind, folder, f"to-{kind}"), schema, projections))
        reports.append(await Copy(end, target).run())
        end = target
    return end, reports


async def test_something_of_everything_comes_home_as_it_left(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(sqlite(tmp_path, "home")))
        await fill(Store(source.core), 40)
        home, reports = await round_trip(source, tmp_path, stack, EVERYTHING)
        assert all(report.finished and report.settled for report in reports)
        assert await dump(source) == await dump(home)
        assert (await verify(source, home)).same
        assert (await source.records.changes(None, 10_000)).changes == (await home.records.changes(None, 10_000)).changes


async def test_a_demonstration_comes_home_with_what_was_counted_and_counts_on(tmp_path: Path) -> None:
    made = blueprint.PROJECTIONS
    async with palaver.open(sqlite(tmp_path, "home"), schema=SCHEMA, projections=made, maintain=False) as store:
        baller = Baller(store)
        await _calls(baller, 6)
        await store.settle(20)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(End.open(sqlite(tmp_path, "home"), SCHEMA, projections=made))
        home, _ = await round_trip(source, tmp_path, stack, SCHEMA, made)
        counted = (await dump(source))["baller-usage"]
        assert counted
        assert await dump(source) == await dump(home)
        baller = Baller(Store(home.core))
        await _calls(baller, 1)
        await Store(home.core).settle(20)
        [old], [new] = await _usage(source), await _usage(home)
        # Six calls were counted before they left, and one was made at home: nothing twice, nothing lost.
        assert (6, 7) == (old["calls"], new["calls"])


async def test_an_agent_comes_home_with_its_secrets_sessions_flags_and_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.cli import run

    monkeypatch.setenv("PALAVER_SEAL_KEYS", SEAL_KEYS)
    url, made = sqlite(tmp_path, "home"), agent.PROJECTIONS
    assert 0 == await asyncio.to_thread(run, ["demo", "--blueprint", "simple_agent", "--url", url, "--quiet"])
    async with palaver.open(url, schema=agent.SCHEMA, projections=made, maintain=False) as store:
        await _what_an_agent_stores(store)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(End.open(url, agent.SCHEMA, projections=made))
        home, reports = await round_trip(source, tmp_path, stack, agent.SCHEMA, made)
        assert all(report.finished and report.settled for report in reports)
        dumped = await dump(source)
        empty = {name for name, rows in dumped.items() if not rows and name != "objects"}
        assert not empty, empty
        assert dumped == await dump(home)
        assert (await verify(source, home)).same
        await _what_an_agent_finds(Store(home.core))


@pytest.mark.parametrize("kind", CHAIN)
async def test_what_was_not_counted_at_the_source_is_counted_once_at_the_target(tmp_path: Path, kind: str) -> None:
    """The projections of the source stand still in the middle of its feed."""
    made = blueprint.PROJECTIONS
    async with palaver.open(sqlite(tmp_path, "home"), schema=SCHEMA, maintain=False):
        pass
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(sqlite(tmp_path, "home"), SCHEMA, made))
        baller = Baller(Store(source.core))
        await _calls(baller, 4)
        await baller.store.settle(20)
        await _calls(baller, 5)
        target = await stack.enter_async_context(opened(url_of(kind, tmp_path, "to"), SCHEMA, made))
        await Copy(source, target).run()
        assert [4, 4] == [(await _usage(end))[0]["calls"] for end in (source, target)]
        await _calls(Baller(Store(target.core)), 2)
        await Store(target.core).settle(20)
        await baller.store.settle(20)
        assert [9, 11] == [(await _usage(end))[0]["calls"] for end in (source, target)]


async def _what_an_agent_stores(store: Store) -> None:
    """What the demonstration has none of: sealed credentials, a session, a flag with its history, an exposure."""
    async with await agent.capabilities(store) as running:
        for value in (150, 200):
            await running.flags.set("max_conversation_length", value, reason="the chain")
        await running.sessions.start("ann", {"where": "web"})
    await store.create(ChannelConfig(channel_type="discord", default_model="gpt-4o"))
    await store.create(ChannelCredentials(channel_type="discord", credentials={"token": "s3cret ÿ"}))
    await store.create(Exposure(user="ann", experiment="model_selection", variant="variant_a"))
    await store.create(DataMigration(name="time zones"))
    await store.settle(20)


async def _what_an_agent_finds(store: Store) -> None:
    found = await store.get(ChannelCredentials.at(DEFAULT_TENANT, "discord"))
    assert {"token": "s3cret ÿ"} == found.credentials
    async with await agent.capabilities(store) as running:
        assert 200 == running.flags.value("max_conversation_length")
        assert ["ann"] == [each.user for each in await running.sessions.of("ann")]
        assert 2 == len(await running.flags.history("max_conversation_length"))


async def _calls(baller: Baller, count: int) -> None:
    for _ in range(count):
        async with baller.turn(user_id="u", server_id="s", content="who won?") as turn:
            async with turn.llm_call(provider="openai", model="gpt-4o", purpose="main_response") as call:
                call.result("prompt", "answer", usage={"prompt_tokens": 10, "completion_tokens": 5})
            await turn.reply("they did")


async def _usage(end: End) -> list[Any]:
    return list((await end.records.scan("baller-usage", after=None, limit=10)).records)


async def test_objects_go_to_a_bucket_and_come_back(tmp_path: Path) -> None:
    bucket = TestBucket(servers.ministack().endpoint)
    server = servers.postgres18()
    there = f"{server.url(server.create_database())}?blobs={quote(bucket.url('prod'), safe='')}"
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(sqlite(tmp_path, "home")))
        away = await stack.enter_async_context(opened(there))
        home = await stack.enter_async_context(opened(sqlite(tmp_path, "again")))
        await fill(Store(source.core), 20)
        assert 20 < (await Copy(source, away).run()).objects
        found = await verify(source, away)
        assert found.same
        key = sorted([info.key async for info in away.core.blobs.list()])[0]
        await away.core.blobs.delete([key])
        assert 1 == (await verify(source, away)).objects.missing
        assert 1 == (await Copy(source, away).run()).objects
        await Copy(away, home).run()
        assert await dump(source) == await dump(home)
    bucket.close()


@pytest.mark.parametrize("kind", CHAIN)
async def test_every_tenant_is_copied(tmp_path: Path, kind: str) -> None:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(sqlite(tmp_path, "home"), TENANTS))
        target = await stack.enter_async_context(opened(url_of(kind, tmp_path, "to"), TENANTS))
        for org in ("a", "b", "c/…"):
            await write(Store(source.core), org)
        await Copy(source, target).run()
        dumped = await dump(source)
        assert dumped == await dump(target)
        assert any(key.startswith("archive/") for key in dumped["objects"])
        for org in ("a", "b", "c/…"):
            mine = Store(target.core).for_tenant(org)
            assert 1 == (await mine.search("letters", '"again 2"')).total
            assert {"is": f"canary{org}x long enough"} == (await mine.get(Letter.at("1"))).scan


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.soak), 10])
async def test_real_input_comes_home_as_it_left(tmp_path: Path, shared_data: Path, every: int) -> None:
    """Football, and every dialogue and line of a busy channel, or every tenth: 546 clubs, 1,400 dialogues, 12,500 lines."""
    async with palaver.open(sqlite(tmp_path, "home"), schema=SCHEMA, maintain=False) as store:
        baller = Baller(store)
        await _football(baller, shared_data)
        await side_by_side(lambda dialogue: record(baller, dialogue), rows(shared_data / "dialogs" / "sgd.jsonl.gz")[::every])
        await _channel(baller, rows(shared_data / "dialogs" / "irc-ubuntu.jsonl.gz")[::every])
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened(sqlite(tmp_path, "home"), SCHEMA))
        home, reports = await round_trip(source, tmp_path, stack, SCHEMA)
        assert all(report.finished and report.settled for report in reports)
        dumped = await dump(source)
        assert 38_300 // every * 0.8 < len(dumped["baller-messages"])
        assert dumped == await dump(home)


async def _football(baller: Baller, data: Path) -> None:
    async def put(numbered: tuple[int, dict[str, Any]]) -> None:
        number, club = numbered
        metadata = {name: club[name] for name in ("country", "ground", "city", "founded")}
        await baller.entities.put("team", f"{number}", club["name"], aliases=[each["name"] for each in club["aliases"]], metadata=metadata)

    await side_by_side(put, enumerate(rows(data / "football" / "clubs.jsonl")))
    seasons: dict[str, list[dict[str, Any]]] = {}
    for match in rows(data / "football" / "matches.jsonl"):
        seasons.setdefault(f"{match['league']}/{match['season']}", []).append(match)
    for season, played in seasons.items():
        await baller.entities.put("competition", season, played[0]["league_name"], metadata={"matches": played})  # type: ignore[dict-item]


async def _channel(baller: Baller, lines: list[dict[str, Any]]) -> None:
    spoken: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        spoken.setdefault((line.get("nick") or "*", line["log"]), []).append(line["text"])

    async def speak(one: tuple[tuple[str, str], list[str]]) -> None:
        (nick, channel), texts = one
        for text in texts:
            async with baller.turn(user_id=nick, server_id="ubuntu", channel_id=channel, content=text):
                pass

    await side_by_side(speak, spoken.items())
