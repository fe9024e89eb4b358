"""Pages, cursors, filters and counts; what is written meanwhile neither hides nor doubles what stood still."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from palaver import Batch, Entity, F, Index, Key, ManualClock, Query, Schema, Store, days
from palaver.errors import BadCursor, Expression, PalaverError, Validation
from tests.store.conftest import Opener
from tests.store.world import CHAT, START, Intent, Message, Mood, conversation, message


@pytest.fixture
async def filled(store: Store) -> Store:
    await store.create(conversation())
    names = ("a", "b", "c")
    await store.bulk(
        [
            message(n, text=f"{n}", number=n, sent=START + timedelta(seconds=n // 2), intent=Intent(name=names[n % 3]), mood=Mood.GOOD)
            for n in range(60)
        ]
    )
    return store


async def walked(store: Store, query: Query[Message], limit: int) -> tuple[list[str], int]:
    """Return the ids of all pages, and how many pages there were."""
    ids: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        page = await store.page(query, limit=limit, cursor=cursor)
        pages += 1
        assert len(page) <= limit
        ids += [each.id for each in page]
        cursor = page.cursor
        if cursor is None:
            return ids, pages


QUERIES: list[Query[Message]] = [
    Message.key("c"),
    Message.key("c").newest_first(),
    Message.key("c").after("10").before("50"),
    Message.key("c").between("10", "50").newest_first(),
    Message.by_user("u"),
    Message.by_user("u").newest_first(),
    Message.by_user("u").since(START + timedelta(seconds=10)),
    Message.by_intent("a"),
    Message.by_intent("a").newest_first(),
    Message.by_mood(Mood.GOOD).between(START, START + timedelta(seconds=20)),
    Message.by_mood("good").newest_first(),
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
async def test_pages_of_any_size_give_the_same_records_in_the_same_order(filled: Store, query: Query[Message]) -> None:
    whole = [each async for each in filled.query(query)]
    assert whole
    ordered = sorted(whole, key=lambda each: int(each.id) if query.path.name == "key" else each.sent, reverse=query.descending)
    assert [each.sent for each in ordered] == [each.sent for each in whole]

    for limit in (1, 7, 60, 100):
        ids, _ = await walked(filled, query, limit)
        assert [each.id for each in whole] == ids


async def test_a_page_shows_how_much_it_is_and_nothing_of_what_it_holds(filled: Store) -> None:
    pages = [await filled.page(Message.key("c"), limit=limit) for limit in (7, 100)]

    assert ["Page(7 items, with a cursor)", "Page(60 items, the last)"] == [repr(page) for page in pages]


async def test_ids_are_in_the_order_of_their_numbers(filled: Store) -> None:
    assert [str(n) for n in range(60)] == [each.id async for each in filled.query(Message.key("c"))]
    assert ["8", "9", "10", "11"] == [each.id async for each in filled.query(Message.key("c").between("8", "11"))]


async def test_a_filter_that_matches_nothing_still_ends(filled: Store) -> None:
    ids, pages = await walked(filled, Message.key("c").filter(F("text") == "none"), 6)

    assert [] == ids
    # A cursor may be there at the exact end.
    assert pages in (10, 11)
    assert [] == [each async for each in filled.query(Message.key("c").filter(F("text") == "none").limit(3))]


async def test_a_filter_counts_what_matches_towards_the_limit_of_a_query(filled: Store) -> None:
    query = Message.key("c").filter(F("number") >= 30).limit(5)

    assert ["30", "31", "32", "33", "34"] == [each.id async for each in filled.query(query)]
    assert 5 == await filled.count(query)
    assert 30 == await filled.count(Message.key("c").filter(F("number") >= 30))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F("text").is_in(["1", "2", "none"]), 2),
        (F("text").starts_with("5"), 11),
        (F("intent.name") == "a", 20),
        (~(F("intent.name") == "a"), 40),
        ((F("number") < 3) | (F("number") > 57), 5),
        ((F("number") >= 3) & (F("number") <= 5), 3),
        (F("number").between(3, 5), 3),
        (F("mood") == Mood.GOOD, 60),
        (F("mood") == "good", 60),
        (F("mood").missing(), 0),
        (F("sent") < START + timedelta(seconds=1), 2),
        (F("tags").contains("x"), 0),
        (F("text") != "1", 59),
    ],
    ids=repr,
)
async def test_conditions_compare_as_their_fields_do(filled: Store, condition: Any, expected: int) -> None:
    assert expected == await filled.count(Message.key("c").filter(condition))


async def test_records_that_stand_still_are_seen_exactly_once_under_writes(filled: Store) -> None:
    seen: list[str] = []
    cursor: str | None = None
    turn = 0
    while True:
        page = await filled.page(Message.key("c"), limit=5, cursor=cursor)
        seen += [each.id for each in page]
        cursor = page.cursor
        if cursor is None:
            break
        await filled.delete(Message.at("c", str(turn)))
        await filled.create(message(1000 + turn))
        await filled.patch(Message.at("c", "59"), add={"number": 1})
        turn += 1
    still = [str(n) for n in range(turn, 60)]

    assert still == [id for id in seen if id in still]
    assert len(seen) == len(set(seen))


async def test_the_cursor_of_a_deleted_record_goes_on(filled: Store) -> None:
    page = await filled.page(Message.by_user("u"), limit=10)
    await filled.delete(page.items[-1])

    rest = await filled.page(Message.by_user("u"), limit=100, cursor=page.cursor)

    assert 50 == len(rest)


async def test_expired_records_are_neither_shown_nor_counted(filled: Store, clock: ManualClock) -> None:
    for n in range(0, 60, 2):
        await filled.patch(Message.at("c", str(n)), set={"expires": START + days(1)})
    clock.advance(days(1))

    for query in (Message.key("c"), Message.by_user("u"), Message.by_mood("good")):
        assert 30 == await filled.count(query) == len([each async for each in filled.query(query)])
    ids, _ = await walked(filled, Message.key("c"), 5)
    assert 30 == len(ids)


async def test_limits_bound_queries_and_pages(filled: Store) -> None:
    assert 7 == len([each async for each in filled.query(Message.key("c").limit(7))])
    assert 7 == await filled.count(Message.key("c").limit(7))
    assert 7 == len(await filled.page(Message.key("c").limit(7)))
    assert 7 == len(await filled.page(Message.key("c").limit(7), limit=50))
    assert 5 == len(await filled.page(Message.key("c").limit(7), limit=5))
    for wrong in (0, -1):
        with pytest.raises(Validation):
            await filled.page(Message.key("c"), limit=wrong)
        with pytest.raises(Validation):
            Message.key("c").limit(wrong)


async def test_a_page_that_ends_exactly_at_the_end_has_no_more_records(filled: Store) -> None:
    page = await filled.page(Message.key("c"), limit=60)

    rest = [] if page.cursor is None else (await filled.page(Message.key("c"), limit=60, cursor=page.cursor)).items
    assert [] == rest


async def test_a_cursor_serves_only_its_own_query(filled: Store, clock: ManualClock) -> None:
    cursor = (await filled.page(Message.key("c"), limit=5)).cursor
    assert cursor is not None
    others: list[Query[Any]] = [
        Message.key("d"),
        Message.key("c").newest_first(),
        Message.key("c").after("1"),
        Message.key("c").filter(F("number") > 1),
        Message.by_user("c"),
    ]

    for other in others:
        with pytest.raises(BadCursor):
            await filled.page(other, limit=5, cursor=cursor)
    for forged in ("", "x", "é", cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB"), cursor[4:], cursor * 2, "A" * 400):
        with pytest.raises(BadCursor):
            await filled.page(Message.key("c"), limit=5, cursor=forged)
    assert 5 == len(await filled.page(Message.key("c"), limit=5, cursor=cursor))
    clock.advance(timedelta(days=1, seconds=1))
    with pytest.raises(BadCursor, match="older than a day"):
        await filled.page(Message.key("c"), limit=5, cursor=cursor)


async def test_the_cursors_of_one_database_open_in_every_process(opened: Opener, url: str) -> None:
    if url == "memory:":
        pytest.skip("memory is one process")
    first, second = await opened(), await opened()
    await first.create(conversation())
    await first.bulk([message(n) for n in range(4)])
    cursor = (await first.page(Message.key("c"), limit=2)).cursor

    assert ["2", "3"] == [each.id for each in await second.page(Message.key("c"), limit=2, cursor=cursor)]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (F("number") < float("nan"), "not finite"),
        (F("number") == float("inf"), "not finite"),
        (F("number") < Decimal("sNaN"), "not finite"),
        (F("number") == Decimal("1." + "1" * 38), "38 significant digits"),
        (F("text") < "\ud800", "surrogate"),
        (F("text").contains("a\0"), r"U\+0000"),
        (F("sent") < datetime(2026, 1, 1), "time zone"),
        (F("sent").is_in([START, datetime(2026, 1, 1)]), "time zone"),
        (F("text") == range(2), "with a range"),
        (F("tags") == set(), "empty set"),
        (F("id").starts_with("1"), "20 digits"),
    ],
)
def test_nothing_is_compared_with_what_could_not_be_stored(condition: Any, words: str) -> None:
    with pytest.raises(Validation, match=words):
        Message.bind(condition)


async def test_hundreds_of_alternatives_are_one_condition(filled: Store) -> None:
    condition: Any = F("number") == 0
    for number in range(1, 2_000):
        condition |= F("number") == number * 20
    assert 3 == await filled.count(Message.key("c").filter(condition))
    some: Any = F("number") >= 0
    for number in range(2_000):
        some &= F("number") != number * 20
    assert 57 == await filled.count(Message.key("c").filter(some))


@pytest.mark.parametrize("nothing", [True, "text", F("text"), None], ids=repr)
async def test_what_is_no_condition_is_refused(filled: Store, nothing: Any) -> None:
    with pytest.raises(Expression, match="no condition"):
        Message.key("c").filter(nothing)
    if nothing is not None:
        with pytest.raises(Expression, match="no condition"):
            await filled.patch(Message.at("c", "1"), set={"number": 1}, when=nothing)


def test_a_text_is_not_taken_for_its_letters() -> None:
    assert ("notes",) == next(iter(Batch().patch(Message.at("c", "1"), remove="notes"))).remove  # type: ignore[union-attr]
    with pytest.raises(Expression, match="several values"):
        F("text").is_in("none")


async def test_what_is_asked_wrongly_is_refused_before_anything_is_read() -> None:
    for ask in (
        lambda: Message.by_user(),
        lambda: Message.by_user("u", START, "x"),
        lambda: Message.by_user(5),
        lambda: Message.by_user(""),
        lambda: Message.by_user(None),
        lambda: Message.by_user("x" * 2049),
        lambda: Message.by_user("u").between("a", "b"),
        lambda: Message.by_user("u").starting_with("x"),
        lambda: Message.by_user("u", START).after(START),
        lambda: Message.by_mood("none"),
        lambda: Message.at("c"),
        lambda: Message.at("c", "01"),
        lambda: Message.at("c", "x"),
        lambda: Message.key("c").filter(F("nope") == 1),
        lambda: Message.key("c").filter(F("intent.nope") == 1),
        lambda: Message.key("c").filter(F("text") == None),  # noqa: E711
        lambda: Message.key("c").filter(F("text") == F("number")),
        lambda: Message.key("c").starting_with("1"),
        lambda: Everything.by_rank().starting_with("1"),
        lambda: Message.key("c").limit(2.5),  # type: ignore[arg-type]
        lambda: Message.key("c").limit(True),
    ):
        with pytest.raises(PalaverError):
            ask()


def test_conditions_have_no_truth_value() -> None:
    with pytest.raises(Expression):
        bool(F("a") == 1)
    with pytest.raises(Expression):
        bool(F("a") == 1 and F("b") == 2)


class Everything(Entity, table="everything"):
    id: str
    rank: float = 0.0
    group: str | None = None
    note: str | None = None
    key = Key("id")
    by_rank = Index(sort="rank", shards=3)
    by_group = Index("group", sort=("rank", "id"), shards=2)


async def test_an_index_without_partition_orders_all_records(opened: Opener) -> None:
    store = await opened(Schema("all", [Everything]))
    ranks = [0.0, -1.5, 2.25, 1e20, -1e-20, 3.0, 2.25, -7.0]
    await store.bulk([Everything(id=str(n), rank=rank, group="g" if n % 2 else None) for n, rank in enumerate(ranks)])

    assert sorted(ranks) == [each.rank async for each in store.query(Everything.by_rank())]
    assert [2.25, 2.25, 0.0] == [each.rank async for each in store.query(Everything.by_rank().newest_first()) if 0 <= each.rank < 3]
    assert [-1e-20, 0.0, 2.25, 2.25] == [each.rank async for each in store.query(Everything.by_rank().between(-1, 2.25))]
    assert sorted(ranks[1::2]) == [each.rank async for each in store.query(Everything.by_group("g"))]
    assert 1 == await store.count(Everything.by_group("g", -7.0))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.page(Everything.by_rank().newest_first(), limit=3, cursor=cursor)
        seen += [each.id for each in page]
        if (cursor := page.cursor) is None:
            break
    assert 8 == len(set(seen)) == len(seen)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_shard_whose_page_ends_early_loses_nothing(opened: Opener, backwards: bool) -> None:
    """Of large records a page takes 1 MB at most, and the shards of a page reach differently far."""
    store = await opened(Schema("all", [Everything]))
    await store.bulk([Everything(id=f"{n:02d}", rank=float(n), note="x" * (80_000 if n < 60 else 1)) for n in range(80)])
    query = Everything.by_rank().newest_first() if backwards else Everything.by_rank()

    assert sorted(range(80), reverse=backwards) == [each.rank async for each in store.query(query)]
    assert 80 == await store.count(query)


async def test_an_index_may_lag_and_a_key_never_does(clock: ManualClock, opened: Opener) -> None:
    store = await opened(CHAT, url="memory:")
    store.core.records.index_lag = timedelta(milliseconds=200)  # type: ignore[attr-defined]
    await store.create(conversation())
    await store.create(message())

    assert 1 == await store.count(Message.key("c"))
    assert 0 == await store.count(Message.by_user("u"))
    clock.advance(timedelta(milliseconds=200))
    assert 1 == await store.count(Message.by_user("u"))
