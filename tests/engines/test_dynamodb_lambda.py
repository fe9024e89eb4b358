"""The Lambda function of a store: fed with real stream events, beside other copiers, and where the copy fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver import lambdas
from palaver.errors import ConfigError, Throttled
from palaver.feed import Projection, Runner
from palaver.ops import Change, Op
from tests.stacks import fresh
from tests.store.world import CHAT, Conversation, Team


class Seen:
    """Counts in this process what a projection is given."""

    name = "seen"

    def __init__(self) -> None:
        self.changes: list[Change] = []

    async def apply(self, changes: Any) -> list[Op]:
        self.changes += changes
        return []

    async def rebuild(self) -> None:
        raise AssertionError("nothing was trimmed")


class Plenty:
    def __init__(self, left_s: float = 60.0) -> None:
        self.left_s = left_s

    def get_remaining_time_in_millis(self) -> int:
        return int(self.left_s * 1_000)


def event(*sequences: str) -> dict[str, Any]:
    return {"Records": [{"eventSource": "aws:dynamodb", "dynamodb": {"SequenceNumber": sequence}} for sequence in sequences]}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    environ: dict[str, str] = {}
    made = fresh("dynamodb", tmp_path, environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return made


def write(url: str, *entities: Any) -> None:
    async def do() -> None:
        async with palaver.open(url, schema=CHAT, maintain=False) as store:
            for entity in entities:
                await store.create(entity)

    asyncio.run(do())


@contextmanager
def handler(url: str, seen: Seen) -> Iterator[lambdas.Handler]:
    def make(store: Any) -> Projection:
        return seen

    with closing(lambdas.handler(url, schema=CHAT, projections=[make])) as handle:
        yield handle


def test_an_event_copies_the_feed_and_runs_the_projections(url: str) -> None:
    seen = Seen()
    write(url, Team(id="a"), Team(id="b"))
    with handler(url, seen) as handle:
        assert {"batchItemFailures": []} == handle(event("1"), Plenty())
        assert {("a",), ("b",)} == {change.key for change in seen.changes}
        write(url, Team(id="c"))
        # Delivered twice, as Lambda may.
        for _ in range(2):
            assert {"batchItemFailures": []} == handle(event("2"), Plenty())
        assert [("c",)] == [change.key for change in seen.changes[2:]]


def test_near_its_deadline_it_leaves_the_projections_for_the_next_event(url: str) -> None:
    seen = Seen()
    write(url, Team(id="a"))
    with handler(url, seen) as handle:
        assert {"batchItemFailures": []} == handle(event("1"), Plenty(1.0))
        assert [] == seen.changes
        handle(event("1"), Plenty())
        assert 1 == len(seen.changes)


def test_two_functions_leave_nothing_to_each_other(url: str) -> None:
    """Lambda keeps several, and each stands still between its events: a lease that one of them kept would keep the other away."""
    first, second = Seen(), Seen()
    with handler(url, first) as one, handler(url, second) as other:
        write(url, Team(id="a"))
        one(event("1"), Plenty())
        write(url, Team(id="b"))
        other(event("2"), Plenty())
        assert [("a",)] == [change.key for change in first.changes]
        assert [("b",)] == [change.key for change in second.changes]


def test_what_came_while_a_lease_was_about_to_be_released_is_not_left(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Seen(), Seen()
    with handler(url, first) as one, ThreadPoolExecutor(1) as thread:
        let_go, late = Runner.let_go, [Team(id="late")]

        def meanwhile(team: Team) -> None:
            write(url, team)
            with handler(url, second) as other:
                other(event("2"), Plenty())

        async def about_to(self: Runner) -> bool:
            if self.projections.get("seen") is first and late:
                await asyncio.get_running_loop().run_in_executor(thread, meanwhile, late.pop())
            return await let_go(self)

        monkeypatch.setattr(Runner, "let_go", about_to)
        write(url, Team(id="a"))
        one(event("1"), Plenty())
        assert [] == second.changes
        assert [("a",), ("late",)] == [change.key for change in first.changes]


def test_a_projection_that_fails_is_not_waited_for(url: str) -> None:
    class Failing(Seen):
        async def apply(self, changes: Any) -> list[Op]:
            raise ValueError("a mistake of the application")

    write(url, Team(id="a"))
    with handler(url, Failing()) as handle:
        assert {"batchItemFailures": []} == handle(event("1"), Plenty())


def test_a_copy_that_fails_is_asked_for_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.records.dynamodb import DynamoRecords

    seen = Seen()
    write(url, Team(id="a"))
    with handler(url, seen) as handle:
        copy = DynamoRecords.copy_feed

        async def throttled(self: DynamoRecords) -> None:
            raise Throttled(reason="hot key")

        monkeypatch.setattr(DynamoRecords, "copy_feed", throttled)
        assert {"batchItemFailures": [{"itemIdentifier": "7"}]} == handle(event("7", "8"), Plenty())
        assert [] == seen.changes
        monkeypatch.setattr(DynamoRecords, "copy_feed", copy)
        assert {"batchItemFailures": []} == handle(event("7", "8"), Plenty())
        assert 1 == len(seen.changes)


def test_a_schedule_keeps_the_house(url: str) -> None:
    write(url, Conversation(user_id="u", id="1", expires=palaver.ManualClock().now()))
    with handler(url, Seen()) as handle:
        handle({"source": "aws.events"}, Plenty())

    async def left() -> int:
        async with palaver.open(url, schema=CHAT, maintain=False) as store:
            return len((await store.core.records.scan("conversations", after=None, limit=10)).records)

    assert 0 == asyncio.run(left())


def test_a_stack_whose_feed_nobody_has_to_copy_needs_no_function(tmp_path: Path) -> None:
    handle = lambdas.handler(f"sqlite:///{tmp_path}/x.db", schema=CHAT)
    with pytest.raises(ConfigError, match="Only a stack whose feed"):
        handle(event("1"), Plenty())
