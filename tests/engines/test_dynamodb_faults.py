"""Under random faults: what a call says about its write is true, and one that must not be repeated is never done twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from palaver.connections.dynamodb import Pace
from palaver.errors import Corruption, OutcomeUnknown, PalaverError, Throttled, Unavailable
from tests.engines.dynamo_script import THROTTLED, Request, client, encoded, failed, half, ok, scripted

CALLS = 400
AT_ONCE = 12


class Moody:
    """A server that counts what it carried out, and answers as its seed has it."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.moods: Counter[str] = Counter()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        moods = ["well"] * 6 + ["throttled", "unavailable", "fault", "fault done", "cut", "cut done", "half", "crc", "last"]
        mood = self._chance.choice(moods)
        self.moods[mood] += 1
        if mood in ("well", "fault done", "cut done", "half", "crc", "last"):
            self.done[json.loads(request.body)["Item"]["k"]["S"]] += 1
        match mood:
            case "well":
                await ok()(request, writer)
            case "throttled":
                await THROTTLED(request, writer)
            case "unavailable":
                await failed("ServiceUnavailable", 503)(request, writer)
            case "fault" | "fault done":
                await failed("InternalServerError", 500)(request, writer)
            case "cut" | "cut done":
                writer.transport.abort()
            case "half":
                await half(request, writer)
            case "crc":
                writer.write(encoded(200, b"{}", crc=7))
            case "last":
                # Closed without a word of warning: the next request on it may find it stale.
                await ok()(request, writer)
                await writer.drain()
                writer.close()


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("seed", range(4))
async def test_what_a_call_says_of_its_write_is_true(seed: int, idempotent: bool) -> None:
    server = Moody(seed)
    said: dict[str, type[PalaverError] | None] = {}
    async with scripted(server) as script, client(script, seed=seed, pool=5, pace=Pace(attempts=3)) as dynamo:
        names = iter([f"call {number}" for number in range(CALLS)])

        async def caller() -> None:
            for name in names:
                body: dict[str, Any] = {"TableName": "t", "Item": {"k": {"S": name}}}
                try:
                    await dynamo.call("PutItem", body, idempotent=idempotent)
                    said[name] = None
                except PalaverError as error:
                    said[name] = type(error)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        assert len(script.open) <= 5
    assert CALLS == len(said)
    for name, error in said.items():
        done = server.done[name]
        if error is None:
            assert done >= 1, f"{name} was called written and is not"
        elif error is not OutcomeUnknown:
            assert done == 0, f"{name} ended as {error.__name__} and was written"
            assert error in (Throttled, Unavailable)
        assert idempotent or done <= 1, f"{name} was written {done} times"
    kinds = Counter(said.values())
    assert Corruption not in kinds
    # Seen at all: successes, unknown outcomes, and with only safe repetitions also exhausted ones.
    assert kinds[None] > CALLS // 3
    assert kinds[OutcomeUnknown] > 0
    assert min(server.moods.values()) > 0
    assert len(server.moods) == 10
