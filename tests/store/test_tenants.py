"""A store of one tenant sees and touches nothing of another, by whatever name it tries."""

from __future__ import annotations

from typing import Annotated

import pytest

from palaver import Batch, Entity, F, Key, Schema, Search, Searchable, Source, Store, Tenant
from palaver.claims import claim_to
from palaver.errors import (
    BadCursor,
    ConditionFailed,
    ConfigError,
    Duplicate,
    Expression,
    IdempotencyMismatch,
    KeyTooLong,
    PalaverError,
    TenantMismatch,
)
from palaver.ops import Address
from palaver.ports import SearchDoc, SearchSpec
from palaver.searching import document_id
from tests.store.conftest import Opener
from tests.store.world import CHAT, NOTES, Note


def note(owner: str, id: str = "1", **fields: object) -> Note:
    values = {"person": "p", "slug": f"slug-{id}", "body": f"{owner}'s words", **fields}
    return Note(owner=owner, id=id, **values)  # type: ignore[arg-type]


@pytest.fixture
async def both(opened: Opener) -> tuple[Store, Store]:
    store = await opened(NOTES)
    a, b = store.for_tenant("a"), store.for_tenant("b")
    for own, name in ((a, "a"), (b, "b")):
        for n in range(5):
            await own.create(note(name, str(n), file=f"{name} has a file of its own {n}".encode()))
    return a, b


async def test_one_key_names_another_record_for_each_tenant(both: tuple[Store, Store]) -> None:
    for store, name in zip(both, "ab", strict=True):
        found = await store.get(Note.at("p", "1"))
        assert name == found.owner
        assert found.file == f"{name} has a file of its own 1".encode()
        assert name == (await store.get(Note.by_slug("slug-1"))).owner
        assert {name} == {each.owner async for each in store.query(Note.key("p"))}
        assert 5 == await store.count(Note.key("p"))
    assert [] == [each async for each in both[0].query(Note.by_body("b's words"))]


async def test_no_write_reaches_another_tenant(both: tuple[Store, Store]) -> None:
    a, b = both
    before = [each async for each in b.query(Note.key("p"))]
    foreign = await b.get(Note.at("p", "1"))

    for write in (
        a.create(note("b", "9")),
        a.put(foreign),
        a.put(note("b", "1", slug="other")),
        a.bulk([note("b", "8")]),
        a.write(Batch().create(note("a", "7")).create(note("b", "7"))),
        a.patch(foreign, set={"body": "mine"}),
        a.patch(foreign.address, set={"body": "mine"}),
        a.delete(foreign),
        a.write(Batch().check(foreign).create(note("a", "7"))),
    ):
        with pytest.raises(TenantMismatch):
            await write
    await a.delete(Note.at("p", "1"))
    await a.create(note("a", "1"))
    await a.patch(Note.at("p", "1"), set={"body": "mine"})
    with pytest.raises(PalaverError):
        await a.patch(Note.at("p", "1"), set={"owner": "b"})
    with pytest.raises(ConditionFailed):
        await a.patch(Note.at("p", "99"), set={"body": "mine"})

    assert before == [each async for each in b.query(Note.key("p"))]
    assert await a.find(Note.at("p", "7")) is None


async def test_the_record_of_another_tenant_is_not_taken_for_ones_own(both: tuple[Store, Store]) -> None:
    """One key names a record of each: who holds that of another tenant, by a mistake, neither reads nor changes the own one."""
    a, b = both
    foreign, own = await b.get(Note.at("p", "1")), await a.get(Note.at("p", "1"))

    for read in (a.get(foreign.address), a.find(foreign.address)):
        with pytest.raises(TenantMismatch):
            await read
    assert own.address == foreign.address == Note.at("p", "1")
    assert own == await a.get(own.address)
    assert own.body == (await a.get(Note.at("p", "1"))).body


async def test_a_cursor_of_another_tenant_is_refused(both: tuple[Store, Store]) -> None:
    a, b = both
    cursor = (await b.page(Note.key("p"), limit=2)).cursor

    with pytest.raises(BadCursor):
        await a.page(Note.key("p"), limit=2, cursor=cursor)


async def test_a_token_of_another_tenant_is_a_new_one(both: tuple[Store, Store]) -> None:
    a, b = both
    await a.delete(Note.at("p", "1"), token="x")
    await b.create(note("b", "9"), token="x")
    with pytest.raises(IdempotencyMismatch):
        await a.create(note("a", "9"), token="x")


async def test_tenants_and_tokens_cannot_be_shifted_into_each_other(opened: Opener) -> None:
    store = await opened(NOTES)
    await store.for_tenant("a\x1fb").create(note("a\x1fb"), token="c")

    await store.for_tenant("a").create(note("a", "2"), token="b\x1fc")


async def test_objects_lie_below_their_tenant(both: tuple[Store, Store]) -> None:
    keys = [info.key async for info in both[0].core.blobs.list()]

    assert 10 == len(keys)
    assert {"a/p", "b/p"} == {"/".join(key.split("/")[:2]) for key in keys}
    await both[0].create(note("a", "../../b/p/9", file=b"what another tenant should not hold"))
    assert 5 == len([info async for info in both[0].core.blobs.list("b/")])


async def test_a_search_shows_only_its_tenants_words(both: tuple[Store, Store]) -> None:
    a, b = both
    await a.settle()

    for store, name in ((a, "a"), (b, "b")):
        found = await store.search("notes", "words")
        assert 5 == found.total
        assert {name} == {hit.entity.owner for hit in found if isinstance(hit.entity, Note)}
    for own in ("owner", "_tenant"):
        with pytest.raises(Expression, match="no filter"):
            await a.search("notes", "words", where=F(own) == "b")


class Article(Entity, table="articles"):
    org: Annotated[str, Tenant()]
    id: str
    text: Annotated[str, Searchable()] = "ball"
    key = Key("id")


class Comment(Entity, table="comments"):
    """What another calls the tenant is anybody's word here."""

    owner: Annotated[str, Tenant()]
    id: str
    text: Annotated[str, Searchable()] = "ball"
    org: str = "a"
    key = Key("id")


BOTH = Schema(
    "press",
    [Article, Comment],
    searches=[Search("all", Source(Article), Source(Comment, filters=("org",))), Search("comments", Source(Comment))],
)


async def test_entities_that_call_their_tenants_differently_are_searched_together(opened: Opener) -> None:
    store = await opened(BOTH)
    for name in "ab":
        own = store.for_tenant(name)
        await own.write(Batch().create(Article(org=name, id=name)).create(Comment(owner=name, id=name)))
    await store.settle()

    for name in "ab":
        found = await store.for_tenant(name).search("all", "ball", facets=["org"])
        assert {("Article", name), ("Comment", name)} == {(type(hit.entity).__name__, hit.entity.id) for hit in found}  # type: ignore[attr-defined]
        assert (2, {"org": {"a": 1}}) == (found.total, found.facets)
        assert [name] == [hit.entity.id for hit in await store.for_tenant(name).search("comments")]  # type: ignore[attr-defined]


async def test_an_index_that_is_wrong_about_a_tenant_shows_nothing_of_it(both: tuple[Store, Store]) -> None:
    a, _ = both
    theirs = document_id(Address("notes", ("b", "p", "1")))
    await a.core.search.apply([SearchSpec("notes", ("body",), {"_tenant": "text", "_entity": "text"}, required=("_tenant",))])
    await a.core.search.put("notes", [SearchDoc(theirs, 1, {"body": "words"}, {"_tenant": "a", "_entity": "Note"})])

    assert [] == list(await a.search("notes", "words"))


async def test_an_unbound_store_of_a_tenanted_schema_refuses(opened: Opener) -> None:
    store = await opened(NOTES)

    for verb in (
        store.find(Note.at("p", "1")),
        store.create(note("a")),
        store.delete(Note.at("p", "1")),
        store.count(Note.key("p")),
        store.page(Note.key("p")),
        store.find(Note.by_slug("s")),
        store.search("notes", "words"),
        store.bulk([note("a")]),
    ):
        with pytest.raises(TenantMismatch):
            await verb


async def test_tenants_are_named_by_texts_and_only_where_there_are_any(opened: Opener) -> None:
    notes, chat = await opened(NOTES), await opened(CHAT, url="memory:")

    with pytest.raises(ConfigError, match="has no tenants"):
        chat.for_tenant("a")
    with pytest.raises(PalaverError):
        notes.for_tenant("")
    with pytest.raises(KeyTooLong):
        notes.for_tenant("x" * 2049)


@pytest.mark.parametrize("name", ["t" * 1_200, "ü" * 600, "#a", "a/Note/by_slug"], ids=len)
async def test_unique_values_hold_for_a_tenant_of_any_name(opened: Opener, name: str) -> None:
    own = (await opened(NOTES)).for_tenant(name)
    await own.create(note(name, "1", slug="same", body="-"))

    assert "1" == (await own.get(Note.by_slug("same"))).id
    with pytest.raises(Duplicate):
        await own.create(note(name, "2", slug="same", body="-"))


def test_no_tenant_can_be_called_like_another_is_shortened() -> None:
    declared = Note.declared()
    unique = declared.uniques["by_slug"]
    long = claim_to(declared, unique, ("same",), "t" * 1_500)

    owner = str(long.key[1]).partition("/")[0]
    assert owner.startswith("#")
    assert long != claim_to(declared, unique, ("same",), owner)


async def test_sweeping_frees_the_claims_of_every_tenant(both: tuple[Store, Store]) -> None:
    a, b = both
    await a.delete(Note.at("p", "1"))
    await a.create(note("a", "9", slug="slug-1"))

    assert "9" == (await a.get(Note.by_slug("slug-1"))).id
    assert "1" == (await b.get(Note.by_slug("slug-1"))).id
