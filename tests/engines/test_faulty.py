"""Faulty fails when it should, forwards everything else, and still fulfils the suite where no fault is asked for."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from palaver import ports
from palaver.errors import OutcomeUnknown, PalaverError, Throttled, Unavailable
from palaver.ops import Table, WriteSet
from palaver.records.memory import MemoryRecords
from palaver.testing.faulty import POWERS, Faults, Faulty
from palaver.testing.records.base import NOTES, NOW, TABLES, put_note, stored
from tests.engines.test_memory import TestMemory as MemoryFacts

OPTIONAL = (ports.Counts, ports.FindsExpired, ports.TrimsFeed, ports.Wakes, ports.Restores, ports.ContinuesFeed)


def methods(protocol: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(member) for name, member in vars(protocol).items() if inspect.isfunction(member) and name[0] != "_"}


class TestFaultyMemory(MemoryFacts):
    """Calls that give way to each other at every step change no fact."""

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[ports.RecordEngine]:
        yield Faulty(MemoryRecords(tables), 1, Faults(yields=2))

    async def raw_get(self, engine: Any, at: Any) -> Any:
        return await super().raw_get(engine.engine, at)

    async def raw_put(self, engine: Any, table: Any, record: Any) -> None:
        await super().raw_put(engine.engine, table, record)


def test_every_method_of_the_port_is_forwarded_as_it_is_declared() -> None:
    for name, signature in methods(ports.RecordEngine).items():
        assert list(signature.parameters) == list(inspect.signature(vars(Faulty)[name]).parameters), name
    assert set(POWERS) == {name for protocol in OPTIONAL for name in methods(protocol)}


async def test_every_call_reaches_the_engine_with_its_arguments() -> None:
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        limits = MemoryRecords.limits

        def __getattr__(self, name: str) -> Any:
            async def call(*args: Any, **options: Any) -> str:
                seen.append((name, args, options))
                return name

            return call

    faulty: Any = Faulty(Recorder(), 1)
    for name, signature in {**methods(ports.RecordEngine), **{power: inspect.signature(lambda a: a) for power in POWERS}}.items():
        parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
        args = [object() for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        options = {parameter.name: object() for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
        await getattr(faulty, name)(*args, **options)
        found, given, named = seen.pop()
        assert name == found
        assert [*args, *options.values()] == [*given, *named.values()]


def test_an_engine_without_a_power_does_not_seem_to_have_it() -> None:
    class Bare:
        limits = MemoryRecords.limits

    assert isinstance(Faulty(MemoryRecords(TABLES), 1), ports.Counts)
    assert not isinstance(Faulty(Bare(), 1), ports.Counts)  # type: ignore[arg-type]


async def test_a_refused_call_did_nothing_and_a_lost_answer_did_everything() -> None:
    engine = MemoryRecords(TABLES)
    for error, faults, expected in (
        (Throttled, Faults(throttled=1), False),
        (Unavailable, Faults(unavailable=1), False),
        (OutcomeUnknown, Faults(outcome_unknown=1), True),
    ):
        with pytest.raises(error):
            await Faulty(engine, 1, faults).write(WriteSet([put_note("u", error.code)], NOW))
        assert expected == (await stored(engine, NOTES, "u", error.code) is not None)


async def test_reads_never_have_an_unknown_outcome() -> None:
    faulty = Faulty(MemoryRecords(TABLES), 1, Faults(outcome_unknown=1))
    assert await stored(faulty, NOTES, "u", "1") is None


async def test_one_seed_gives_the_same_faults_again() -> None:
    async def codes(seed: int) -> list[str]:
        faulty = Faulty(MemoryRecords(TABLES), seed, Faults(throttled=0.2, unavailable=0.2, outcome_unknown=0.2))
        found = []
        for n in range(200):
            try:
                await faulty.write(WriteSet([put_note("u", f"{n}")], NOW))
                found.append("written")
            except PalaverError as error:
                found.append(error.code)
        assert {code: found.count(code) for code in sorted(faulty.injected)} == dict(sorted(faulty.injected.items()))
        return found

    first = await codes(5)
    assert first == await codes(5)
    assert first != await codes(6)
    assert {"written", "throttled", "unavailable", "outcome_unknown"} == set(first)


async def test_a_caller_may_be_cancelled_before_and_after_the_write() -> None:
    outcomes = set()
    for steps in range(1, 5):
        engine = MemoryRecords(TABLES)
        task = asyncio.ensure_future(Faulty(engine, 1, Faults(yields=2)).write(WriteSet([put_note("u", "1")], NOW)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes.add(await stored(engine, NOTES, "u", "1") is not None)
    assert {False, True} == outcomes
