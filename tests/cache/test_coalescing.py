"""What is asked for at one moment is asked for in one request, and those who share it do not hurt each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from palaver.coalescing import Coalescer
from palaver.errors import Unavailable


class Server:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def __call__(self, asked: Sequence[int]) -> Sequence[int]:
        self.requests.append(list(asked))
        await self.gate.wait()
        if self.fails:
            raise Unavailable("away")
        return [-each for each in asked]


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
def reads(server: Server) -> Coalescer[int, int]:
    return Coalescer(server, 4)


async def ask(reads: Coalescer[int, int], number: int) -> int:
    return await reads.get(number)


def at_once(reads: Coalescer[int, int], number: int) -> int:
    """Return what is answered without waiting for a turn of the event loop."""
    with pytest.raises(StopIteration) as answered:
        next(reads.get(number).__await__())
    return int(answered.value.value)


async def test_who_is_alone_asks_at_once(server: Server, reads: Coalescer[int, int]) -> None:
    for number in range(3):
        assert -number == at_once(reads, number)
    assert [[0], [1], [2]] == server.requests


async def test_those_who_ask_at_one_moment_share_a_request_up_to_its_size(server: Server, reads: Coalescer[int, int]) -> None:
    server.gate.clear()
    first = asyncio.ensure_future(ask(reads, 0))
    others = [asyncio.ensure_future(ask(reads, number)) for number in range(1, 7)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [[0], [1, 2, 3, 4], [5, 6]] == server.requests
    server.gate.set()
    assert [0, -1, -2, -3, -4, -5, -6] == await asyncio.gather(first, *others)
    # They come back together, and stay together.
    await asyncio.gather(*(ask(reads, number) for number in range(3)))
    assert [0, 1, 2] == server.requests[-1]
    assert -8 == await reads.get(8)
    assert -9 == at_once(reads, 9)


async def test_who_gives_up_takes_nothing_from_the_others(server: Server, reads: Coalescer[int, int]) -> None:
    server.gate.clear()
    asked = [asyncio.ensure_future(ask(reads, number)) for number in range(4)]
    for _ in range(3):
        await asyncio.sleep(0)
    for each in asked[:2]:
        each.cancel()
    await asyncio.sleep(0)
    server.gate.set()
    assert [-2, -3] == await asyncio.gather(*asked[2:])
    # Also he who asked for himself; nobody waits for him for ever.
    assert -5 == await asyncio.wait_for(reads.get(5), 1)


async def test_an_error_is_that_of_all_who_share_it(server: Server, reads: Coalescer[int, int]) -> None:
    server.fails = True
    found = await asyncio.gather(*(ask(reads, number) for number in range(3)), return_exceptions=True)
    assert [Unavailable] * 3 == [type(each) for each in found]
    server.fails = False
    assert -1 == await reads.get(1)


async def test_closing_waits_for_requests_under_way(server: Server, reads: Coalescer[int, int]) -> None:
    server.gate.clear()
    answer = reads.ask(1)
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, server.gate.set)
    await reads.aclose()
    assert answer.done()
    assert -1 == answer.result()
