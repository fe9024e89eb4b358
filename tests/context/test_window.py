"""The context window on every stack and both caches: what a read gives is what the records give, in one round trip or one query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

import palaver
from palaver import Batch, F, ManualClock, Schema, Store
from palaver.caching import Item
from palaver.context import ContextWindow, estimated_tokens
from palaver.context.items import Items
from palaver.errors import AlreadyExists, ConfigError, NotFound, TenantMismatch, Validation
from tests.context.app import CHAT, TEAMS, Credential, Message, Post, Remark, Setting, message, numbers
from tests.context.queries import Queries, listening, queries
from tests.store.conftest import Opener

__all__ = ["queries"]


async def records(store: Store, n: int, conversation: str = "c") -> list[Message]:
    return [each async for each in store.query(Message.key(conversation).newest_first().limit(n))][::-1]


# --- what a read gives ----------------------------------------------------------------------------------------------


async def test_a_read_gives_the_last_messages_as_the_records_do(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    assert [] == await context.read("c")
    for number in range(12):
        stored = await context.create(message(number, attachment=b"x" * number * 4))
        assert await records(store, 3) == await context.read("c", limit=3, holding=stored)
        assert await records(store, 5) == await context.read("c")
    assert [11] == numbers(await context.read("c", limit=1))
    assert [] == await context.read("another")
    revisions = [each.revision for each in await records(store, 5)]
    assert revisions == [each.revision for each in await context.read("c")]


async def test_one_query_fills_a_window_and_nothing_else_asks_the_records(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    for number in range(9):
        await context.create(message(number))
    for _ in range(10):
        assert [4, 5, 6, 7, 8] == numbers(await context.read("c"))
    for number in range(9, 20):
        await context.create(message(number))
        assert list(range(number - 4, number + 1)) == numbers(await context.read("c", holding=f"{number:06}"))
    assert 1 == queries.count
    assert (20, 1, 1) == (context.figures.hits, context.figures.misses, context.figures.kept)


async def test_a_message_that_is_appended_twice_is_there_once(store: Store) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    first = await context.create(message(1))
    await context.read("c")
    for _ in range(3):
        await context.append(first, first)
    again = await context.create(message(2), token="request 7")
    assert again == await context.create(message(2), token="request 7")
    assert [1, 2] == numbers(await context.read("c"))
    with pytest.raises(AlreadyExists):
        await context.create(message(2))
    assert [1, 2] == numbers(await context.read("c"))


async def test_messages_come_in_the_order_of_their_keys_whatever_order_they_are_appended_in(store: Store) -> None:
    context = ContextWindow(store, Message, keep=4)
    await listening(context)
    await context.read("c")
    stored = await store.write(Batch().create(message(3)).create(message(1)).create(message(2)))
    await context.append(*stored)  # type: ignore[arg-type]
    assert [1, 2, 3] == numbers(await context.read("c"))
    for number in (9, 7, 8, 6, 0):
        await context.create(message(number))
    assert [6, 7, 8, 9] == numbers(await context.read("c"))


async def test_a_batch_appends_what_it_creates_and_forgets_what_it_changes(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=5)
    await listening(context)
    for number in range(3):
        await context.create(message(number))
    await context.read("c")
    await context.write(Batch().create(message(3)).create(message(1, "d")).put(Setting(name="s")))
    assert [0, 1, 2, 3] == numbers(await context.read("c"))
    assert 1 == queries.count
    changed = await context.write(Batch().patch(message(3), set={"content": "other"}).delete(message(0)), returning=True)
    assert [None, "other"] == [each and each.content for each in changed][::-1]  # type: ignore[attr-defined]
    assert ["number 1", "number 2", "other"] == [each.content for each in await context.read("c")]


async def test_only_what_was_stored_is_appended(store: Store) -> None:
    context = ContextWindow(store, Message)
    with pytest.raises(Validation, match="stored"):
        await context.append(message(1))
    with pytest.raises(Validation):
        await context.read("c", limit=0)
    with pytest.raises(Validation):
        await context.read("c", limit=21)
    with pytest.raises(Validation):
        await context.read("c", budget=-1)
    with pytest.raises(Validation, match="conversation_id"):
        await context.read()
    for wrong in ({"keep": 0}, {"keep": 1_001}, {"ttl_s": 0}, {"at_most": 0}):
        with pytest.raises(ConfigError):
            ContextWindow(store, Message, **wrong)  # type: ignore[arg-type]


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_a_budget_takes_whole_messages_from_the_newest_on(store: Store) -> None:
    context = ContextWindow(store, Message, tokens=lambda each: each.tokens)
    await listening(context)
    for number, tokens in enumerate([10, 20, 30, 40]):
        await context.create(message(number, tokens=tokens))

    async def within(budget: int) -> list[int]:
        found = numbers(await context.read("c", budget=budget))
        await context.drop("c")
        assert found == numbers(await context.read("c", budget=budget))
        return found

    assert [0, 1, 2, 3] == await within(100)
    assert [1, 2, 3] == await within(99)
    assert [1, 2, 3] == await within(90)
    # What fits is not looked for behind what does not: a prompt has no holes.
    assert [3] == await within(69)
    # An empty prompt answers nobody, so the newest is there in any case.
    assert [3] == await within(39)
    assert [3] == await within(0)
    assert [2, 3] == numbers(await context.read("c", limit=2, budget=1_000))


async def test_what_has_no_count_is_estimated(store: Store) -> None:
    assert 4 + 25 == estimated_tokens(message(1, content="x" * 100))
    assert 4 + 5 == estimated_tokens(message(1, content="ä" * 9))
    assert 4 == estimated_tokens(message(1, content=""))
    context = ContextWindow(store, Message, tokens=lambda each: each.tokens)
    await listening(context)
    await context.create(message(1, content="x" * 100))
    await context.create(message(2, content="x" * 100, tokens=1_000))
    await context.create(message(3, content="x" * 100))
    for _ in range(2):
        assert [3] == numbers(await context.read("c", budget=1_000))
        assert [2, 3] == numbers(await context.read("c", budget=1_029))
        assert [1, 2, 3] == numbers(await context.read("c", budget=1_058))
    own = ContextWindow(store, Message, estimate=lambda each: 7, name="other")
    assert [2, 3] == numbers(await own.read("c", budget=20))


# --- what is no longer true -----------------------------------------------------------------------------------------


async def test_what_is_deleted_or_changed_is_so_at_once(store: Store) -> None:
    context = ContextWindow(store, Message, keep=3)
    await listening(context)
    stored = [await context.create(message(number)) for number in range(5)]
    await context.read("c")
    await store.delete(stored[3])
    assert [1, 2, 4] == numbers(await context.read("c"))
    await store.patch(stored[4], set={"content": "other"})
    assert "other" == (await context.read("c"))[-1].content
    await store.put(message(9))
    assert [2, 4, 9] == numbers(await context.read("c"))
    await context.append(stored[3])
    # It was deleted since it was stored, and does not come back.
    assert [2, 4, 9] == numbers(await context.read("c"))


async def test_what_has_expired_is_not_in_a_prompt(store: Store, clock: ManualClock, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=3)
    await listening(context)
    for number in range(6):
        gone = clock.now() + timedelta(seconds=60) if number in (2, 5) else None
        await context.create(message(number, expires=gone))
    assert [3, 4, 5] == numbers(await context.read("c"))
    assert [4, 5] == numbers(await context.read("c", limit=2))
    clock.advance(timedelta(seconds=61))
    assert [3, 4] == numbers(await context.read("c", limit=2))
    assert [1, 3, 4] == numbers(await context.read("c"))
    asked = []
    for _ in range(4):
        asked.append(queries.count)
        assert [1, 3, 4] == numbers(await context.read("c"))
    # The feed may tell of a message that has expired meanwhile; after that nothing asks the records any more.
    assert asked[-1] == queries.count


async def test_a_window_is_gone_after_its_time_and_then_whole_again(store: Store, clock: ManualClock, cache: str) -> None:
    context = ContextWindow(store, Message, keep=3, ttl_s=0.2 if cache != "memory" else 60)
    await listening(context)
    for number in range(5):
        await context.create(message(number))
    await context.read("c")
    clock.advance(timedelta(seconds=61))
    if cache != "memory":
        await asyncio.sleep(0.25)
    # A push makes no window: LPUSH would leave one message that looks like all there are.
    await context.create(message(5))
    assert [3, 4, 5] == numbers(await context.read("c"))
    assert 2 == context.figures.misses


async def test_what_another_process_did_is_seen_when_the_feed_tells_of_it(opened: Opener) -> None:
    here, there = await opened(), await opened()
    if there.core.records is here.core.records or type(here.core.records).__name__ == "MemoryRecords":
        pytest.skip("a store in memory is one process's")
    mine = ContextWindow(here, Message, keep=3)
    await listening(mine)
    stored = [await mine.create(message(number)) for number in range(4)]
    assert [1, 2, 3] == numbers(await mine.read("c"))
    await there.delete(stored[2])
    await there.create(message(7))
    await until(lambda: mine.read("c"), [1, 3, 7])
    await there.patch(stored[1], set={"content": "other"})

    async def contents() -> list[str]:
        return [each.content for each in await mine.read("c")]

    for _ in range(600):
        if "other" in await contents():
            break
        await asyncio.sleep(0.02)
    assert ["other", "number 3", "number 7"] == await contents()


async def until(read: Callable[[], Any], expected: list[int]) -> None:
    for _ in range(600):
        if expected == numbers(await read()):
            return
        await asyncio.sleep(0.02)
    assert expected == numbers(await read())


async def test_a_message_that_somebody_stored_and_never_appended_is_there(store: Store) -> None:
    context = ContextWindow(store, Message, keep=3)
    await listening(context)
    await context.create(message(1))
    await context.read("c")
    await store.create(message(2))
    assert [1, 2] == numbers(await context.read("c"))


# --- what is in a window --------------------------------------------------------------------------------------------


async def test_a_filter_leaves_out_what_it_says_and_fills_up_from_before(store: Store, queries: Queries) -> None:
    context = ContextWindow(store, Message, keep=3, where=F("role").is_in(["user", "assistant"]))
    everything = ContextWindow(store, Message, keep=3)
    await listening(context, everything)
    roles = ["user", "tool", "assistant", "tool", "user", "system", "tool"]
    for number, role in enumerate(roles):
        stored = await context.create(message(number, role=role))
        assert stored.role == role
    assert [0, 2, 4] == numbers(await context.read("c"))
    assert [4, 5, 6] == numbers(await everything.read("c"))
    asked = queries.count
    stored = await context.create(message(7, role="tool"))
    assert [0, 2, 4] == numbers(await context.read("c", holding=stored))
    await context.create(message(8, role="user"))
    assert [2, 4, 8] == numbers(await context.read("c"))
    assert asked == queries.count


async def test_a_conversation_may_be_named_and_ordered_by_several_parts(store: Store) -> None:
    context = ContextWindow(store, Post, keep=4)
    await listening(context)
    days = ["2026-01-01", "2026-01-02"]
    for number in (11, 2, -5, 100, -70):
        for day in days[::-1]:
            await context.create(Post(space="s", room=4, day=day, number=number))
    expected = [post async for post in store.query(Post.key("s", 4).newest_first().limit(4))][::-1]
    for _ in range(2):
        assert expected == await context.read("s", 4)
    assert [-5, 2, 11, 100] == [post.number for post in expected]
    assert expected == await context.read("s", 4, holding=expected[0].address)
    with pytest.raises(Validation):
        await context.read("s", 4, holding=100)


async def test_tenants_have_windows_of_their_own(opened: Opener) -> None:
    store = await opened(TEAMS)
    context = ContextWindow(store, Remark, keep=3)
    with pytest.raises(TenantMismatch):
        await context.read("t")
    red, blue = context.for_tenant("red"), context.for_tenant("blue")
    await listening(context)
    stored = await red.create(Remark(team="red", thread="t", id="1"))
    await blue.create(Remark(team="blue", thread="t", id="2"))
    for _ in range(2):
        assert [["1"], ["2"]] == [[each.id for each in await side.read("t")] for side in (red, blue)]
    await store.for_tenant("red").patch(stored, set={"text": "new"})
    assert ["new"] == [each.text for each in await red.read("t")]
    assert (2, 3) == (context.figures.hits, context.figures.misses)


async def test_windows_may_be_written_to_in_somebodys_name(opened: Opener) -> None:
    store = await opened()
    context = ContextWindow(store, Message, keep=3)
    await listening(context)
    await context.read("c")
    await context.on(store.acting_as("support")).create(message(1))
    assert [1] == numbers(await context.read("c"))
    assert "support" in {change.cause.actor for change in (await store.core.records.changes(None, 100)).changes}
    async with palaver.open("memory:", schema=CHAT) as other:
        with pytest.raises(ConfigError):
            context.on(other)


async def test_secrets_and_what_has_no_order_are_refused() -> None:
    async with palaver.open("memory:", schema=CHAT) as store:
        with pytest.raises(ConfigError, match="no order"):
            ContextWindow(store, Setting)
    async with palaver.open("memory:", schema=Schema("keys", [Credential])) as store:
        with pytest.raises(ConfigError, match="secret"):
            ContextWindow(store, Credential)


async def test_what_another_program_put_there_is_a_miss(store: Store, cache: str) -> None:
    context = ContextWindow(store, Message, keep=3)
    await listening(context)
    for number in range(3):
        await context.create(message(number))
    await context.read("c")
    key = context._place(("c",)).key
    items = await store.core.cache.windows.read(key, limit=1)
    assert items is not None
    shape, record = context._items._shape, items[0].data[len(context._items._shape) :]
    for data in (b"", b"another shape", shape + b"{", shape + b"[1]", shape[::-1] + record):
        await store.core.cache.windows.push(key, [Item("000009", 1, data)], ttl_s=60)
        assert [0, 1, 2] == numbers(await context.read("c"))
        assert [0, 1, 2] == numbers(await context.read("c"))


parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4)
shorts = st.text("\1\2\3ab", min_size=1, max_size=3)


@given(st.lists(st.tuples(parts | shorts, st.integers(-(2**63), 2**63 - 1), shorts), min_size=2, max_size=6))
def test_the_order_of_items_is_the_order_of_keys(keys: list[tuple[str, int, str]]) -> None:
    items: Items[Any] = Items.__new__(Items)
    for cut in (slice(0, 1), slice(0, 2), slice(1, 2), slice(0, 3), slice(1, 3)):
        cuts: set[Any] = {key[cut] for key in keys}
        by_key = sorted(cuts, key=lambda each: [part.encode() if isinstance(part, str) else part for part in each])
        ids = [items.id(key) for key in by_key]
        assert ids == sorted(ids, key=str.encode)
        assert len(set(ids)) == len(ids)


# --- without a cache ------------------------------------------------------------------------------------------------


async def test_without_a_cache_every_read_is_right_and_asks_the_records(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(cache="none")
    queries = Queries(store, monkeypatch)
    context = ContextWindow(store, Message, keep=5, at_most=3)
    for number in range(8):
        stored = await context.create(message(number))
        assert [*range(8)][max(0, number - 4) : number + 1] == numbers(await context.read("c", holding=stored))
    await store.delete(stored)
    assert [2, 3, 4, 5, 6] == numbers(await context.read("c"))
    assert (9, 0, 9) == (queries.count, context.figures.hits, context.figures.misses)
    # Where it listens already, it tried to fill them as well.
    assert context.figures.away >= 9
    queries.meanwhile = lambda: asyncio.sleep(0.001)
    await asyncio.gather(*(context.read("c") for _ in range(100)), *(context.read(f"c{number}") for number in range(20)))
    assert queries.most <= 3
    assert 9 + 21 == queries.count
    await context.drop("c")


async def test_a_read_of_a_closed_store_says_so(opened: Opener) -> None:
    store = await opened()
    context = ContextWindow(store, Message)
    context.close()
    context.close()
    await store.aclose()
    with pytest.raises((ConfigError, NotFound)):
        await context.read("c")
