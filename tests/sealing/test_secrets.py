"""Secret fields on each stack: what the application gets, and what nobody else ever sees."""

from __future__ import annotations

import json
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr, TypeAdapter

from palaver import Batch, F, Store
from palaver.errors import AlreadyExists, Expression, IdempotencyMismatch, ItemTooLarge, Unsealable, Validation
from palaver.expr import Path as Column
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import erase
from palaver.lifecycle.export import export
from palaver.ops import Address, Put, Set, Update, WriteSet
from palaver.sealing import OVERHEAD, Sealed, key_id
from tests.sealing.app import CANARY, Bot, Channel, Named, channel, everything, files, shown, walked

FORMATS: tuple[Literal["jsonl", "csv"], ...] = ("jsonl", "csv")


async def raw(store: Store, at: Any) -> dict[str, Any]:
    found = (await store.core.records.get((store.core.planner.address(at, None),)))[0]
    assert found is not None
    return dict(found)


async def around(store: Store, at: Any, column: str, value: Any) -> None:
    """Write a column around the store."""
    update = Update(store.core.planner.address(at, None), (Set(Column(column), value),), ())
    await store.core.records.write(WriteSet((update,), store.core.now_us()))


async def test_the_application_gets_what_it_put_in(store: Store) -> None:
    put = await store.create(channel())

    found = await store.get(Channel.at("c"))

    assert put == found == channel()
    assert CANARY == found.token.get_secret_value()  # type: ignore[union-attr]
    assert [found] == [each async for each in store.query(Channel.by_owner("o"))]
    assert [found] == [hit.entity for hit in (await _searched(store)).hits]


async def _searched(store: Store) -> Any:
    await store.settle()
    return await store.search("channels", "dortmund")


async def test_no_byte_of_a_secret_is_anywhere(store: Store, url: str, tmp_path: Path) -> None:
    put = await store.create(channel(), token="one")
    await store.patch(put, set={"credentials": {CANARY: CANARY}, "title": "x"}, token="two")
    await store.bulk([channel(channel_id=str(number)) for number in range(3)])
    await store.bulk([Bot(bot_id="b", secret=CANARY)])
    await store.write(Batch().create(Named(named_id="n", name="n", secret=CANARY)).patch(Bot.at("b"), set={"other": CANARY}))
    await store.settle()
    await Archive(store).run(date(2026, 3, 10))
    for form in FORMATS:
        with (tmp_path / form).open("wb") as file:
            await (await export(store, Channel, format=form)).write(file)

    assert "dortmund" in (data := await everything(store, url, tmp_path)).decode(errors="ignore")
    assert [] == shown(data)
    await store.aclose()
    assert [] == shown(files(tmp_path))


async def test_the_search_for_bytes_finds_them(store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what is sealed is only packed. The search above has to see it on every stack."""
    from palaver.sealing import SealKey

    monkeypatch.setattr(SealKey, "seal", lambda self, data, nonce, place: b"\x01" + self.id + nonce + data + b"\0" * 16)
    await store.create(channel())

    assert [] != shown(await everything(store, url, tmp_path))


async def test_whatever_shows_an_instance_masks_it(store: Store) -> None:
    put = await store.create(channel())
    with pytest.raises(AlreadyExists) as caught:
        await store.create(channel())
    explained = await store.explain(Batch().create(channel(channel_id="d")).patch(Bot.at("b"), set={"secret": CANARY}))

    texts = [repr(put), str(put), f"{put}", put.model_dump_json(), json.dumps(put.model_dump(mode="json")), repr(put.model_dump())]
    texts += [TypeAdapter(list[Channel]).dump_json([put]).decode(), repr(Batch().create(put)), *walked(caught.value), str(explained)]
    assert [] == shown("\n".join(texts).encode())
    assert "password=**********" in repr(put)
    assert {"channel_id", "owner", "title", "count"} == set(put.model_dump())
    assert "password" in Channel.model_json_schema()["properties"]
    assert "password" not in Channel.model_json_schema(mode="serialization")["properties"]


async def test_wrong_values_are_refused_without_being_shown(store: Store) -> None:
    made = await store.create(channel())
    refused: list[BaseException] = []
    for change in ({"password": 5}, {"credentials": [CANARY]}, {"login": {"user": [CANARY]}}, {"token": {CANARY: 1}}):
        with pytest.raises(Validation) as caught:
            await store.patch(made, set=change)
        refused.append(caught.value)
    with pytest.raises(ValueError, match="channel_id") as validated:
        Channel(password=CANARY, channel_id=[CANARY])  # type: ignore[arg-type]
    with pytest.raises(Validation) as encoded:
        await store.put(made.model_copy(update={"codes": CANARY}))

    assert [] == shown("\n".join(text for error in (*refused, validated.value, encoded.value) for text in walked(error)).encode())


async def test_nothing_is_asked_of_computed_with_or_looked_into(store: Store) -> None:
    made = await store.create(channel())
    for asked in (F("password") == CANARY, F("credentials.a") == 1, F("credentials.a").exists(), F("codes").contains(CANARY)):
        with pytest.raises(Expression, match="secret"):
            Channel.by_owner("o").filter(asked)
        with pytest.raises(Expression, match="secret"):
            await store.patch(made, set={"title": "x"}, when=asked)
    for change in (
        {"set": {"credentials.a": 1}},
        {"set": {"password": F("title")}},
        {"set": {"title": F("password")}},
        {"set": {"password": F("password").if_absent("x")}},
        {"add": {"amount": 1}},
        {"add": {"codes": {"x"}}},
        {"remove": ["credentials.a"]},
    ):
        with pytest.raises(Expression):
            await store.patch(made, **change)

    present = [each.channel_id async for each in store.query(Channel.by_owner("o").filter(F("credentials").exists()))]
    assert ["c"] == present
    assert "x" == (await store.patch(made, set={"title": "x"}, when=F("amount").exists())).title


async def test_a_patch_leaves_the_secrets_it_does_not_name_as_they_are_stored(store: Store) -> None:
    await store.create(channel())
    await store.create(Bot(bot_id="b", secret=CANARY))
    before = await raw(store, Channel.at("c")), await raw(store, Bot.at("b"))

    after = await store.patch(Channel.at("c"), set={"password": "new", "title": "x"}, add={"count": 2})
    bot = await store.patch(Bot.at("b"), add={"runs": 1}, set={"other": "o"})

    assert ("new", "x", 2, channel().credentials) == (after.password, after.title, after.count, after.credentials)
    assert (CANARY, "o", 1) == (bot.secret, bot.other, bot.runs)
    now = await raw(store, Channel.at("c")), await raw(store, Bot.at("b"))
    assert before[0]["credentials"] == now[0]["credentials"]
    assert before[0]["password"] != now[0]["password"]
    assert before[1]["secret"] == now[1]["secret"]
    cleared = await store.patch(Channel.at("c"), set={"token": None, "codes": frozenset()}, remove=["credentials"])
    assert (None, frozenset(), None) == (cleared.token, cleared.codes, cleared.credentials)
    assert cleared == await store.get(Channel.at("c"))


async def test_an_empty_set_is_stored_as_none_there_and_read_as_empty(store: Store) -> None:
    made = await store.create(Channel(channel_id="c"))
    await store.bulk([Channel(channel_id="d")])
    assert frozenset() == made.codes == (await store.get(Channel.at("c"))).codes == (await store.get(Channel.at("d"))).codes
    assert [None, None] == [(await raw(store, Channel.at(each))).get("codes") for each in ("c", "d")]


async def test_one_value_is_sealed_differently_each_time(store: Store) -> None:
    await store.bulk([Bot(bot_id=str(number), secret="same", other="same") for number in range(20)])

    stored = [await raw(store, Bot.at(str(number))) for number in range(20)]
    sealed = [record[name] for record in stored for name in ("secret", "other")]

    assert 40 == len(set(sealed)) == len({each[9:21] for each in sealed})
    assert 1 == len({key_id(each) for each in sealed})


@pytest.mark.parametrize("where", ["another record", "another field", "another table"])
async def test_a_value_that_was_moved_does_not_open(store: Store, where: str) -> None:
    await store.create(Bot(bot_id="a", secret=CANARY, other="x"))
    await store.create(Bot(bot_id="b", secret="b"))
    await store.create(Named(named_id="a", name="n", secret="y"))
    stolen = (await raw(store, Bot.at("a")))["secret"]
    into, column = {
        "another record": (Bot.at("b"), "secret"),
        "another field": (Bot.at("a"), "other"),
        "another table": (Named.at("a"), "secret"),
    }[where]

    await around(store, into, column, stolen)

    with pytest.raises(Unsealable, match="another record") as caught:
        await store.get(into)
    assert [] == shown("".join(walked(caught.value)).encode())


async def test_moving_is_noticed_because_the_place_is_authenticated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every place is the same. Then a moved value opens, so the test above tests what it says."""
    monkeypatch.setattr("palaver.sealing.place", lambda *where: b"")
    await store.create(Bot(bot_id="a", secret=CANARY))
    await store.create(Bot(bot_id="b", secret="b"))

    await around(store, Bot.at("b"), "secret", (await raw(store, Bot.at("a")))["secret"])

    assert CANARY == (await store.get(Bot.at("b"))).secret


async def test_what_was_changed_cut_or_never_sealed_is_never_a_value(store: Store) -> None:
    await store.create(Bot(bot_id="a", secret=CANARY, name="n"))
    sealed = (await raw(store, Bot.at("a")))["secret"]
    for number in (0, 3, 12, 25, len(sealed) - 1):
        await around(store, Bot.at("a"), "secret", sealed[:number] + bytes([sealed[number] ^ 1]) + sealed[number + 1 :])
        with pytest.raises(Unsealable):
            await store.get(Bot.at("a"))
    for other in (sealed[:-1], sealed[:OVERHEAD], b"x", CANARY.encode()):
        await around(store, Bot.at("a"), "secret", other)
        with pytest.raises(Unsealable):
            await store.get(Bot.at("a"))

    await store.patch(Bot.at("a"), set={"secret": "again"})
    assert ("again", "n") == ((found := await store.get(Bot.at("a"))).secret, found.name)


async def test_what_has_no_business_with_a_secret_works_without_opening_it(store: Store, tmp_path: Path) -> None:
    """Archives, exports, search, erasure: a value nobody can open does not stop them."""
    await store.create(channel())
    await around(store, Channel.at("c"), "credentials", b"damaged")

    with pytest.raises(AlreadyExists) as caught:
        await store.create(channel())
    assert caught.value.found is None
    await store.settle()
    assert 1 == (await Archive(store).run(date(2026, 3, 10))).entities["Channel"].records
    assert 1 == await (await export(store, Channel)).write(BytesIO())
    await erase(store, "o")
    assert await store.find(Channel.at("c")) is None


async def test_a_retry_is_a_retry_and_its_hash_tells_nobody_anything(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.batch import fingerprint

    batch = Batch().create(Bot(bot_id="a", secret="hunter2"))
    first = await store.write(batch, token="t")

    assert first == await store.write(batch, token="t")
    with pytest.raises(IdempotencyMismatch):
        await store.write(Batch().create(Bot(bot_id="a", secret="hunter3")), token="t")
    wrapped = Batch().create(channel(token=SecretStr("a")))
    await store.write(wrapped, token="u")
    with pytest.raises(IdempotencyMismatch):
        await store.write(Batch().create(channel(token=SecretStr("b"))), token="u")
    tokens = [
        record for record in (await store.core.records.scan("palaver_system", after=None, limit=500)).records if record["scope"] == "token"
    ]
    assert 2 == len(tokens)
    assert fingerprint(batch) not in repr(tokens)


async def test_size_is_metered_as_sealed(store: Store) -> None:
    room = 409_600 - OVERHEAD - len("bot_id") - len("a") - len("name") - len("runs") - len("secret") - 200
    await store.create(Bot(bot_id="a", secret="x" * room))
    assert room == len((await store.get(Bot.at("a"))).secret or "")

    with pytest.raises(ItemTooLarge):
        await store.create(Bot(bot_id="b", secret="x" * (room + 200)))
    assert await store.find(Bot.at("b")) is None


async def test_images_of_history_are_sealed_for_their_record(store: Store) -> None:
    await store.create(channel())
    await store.patch(Channel.at("c"), set={"password": "new"})

    images: list[Any] = [record["image"] for record in (await store.core.records.scan("channels-history", after=None, limit=9)).records]
    codec = store.core.planner.codec(Channel)

    assert [channel().password, "new"] == [codec.decode({**image, "_revision": 1}).password for image in images]
    assert isinstance(codec.decode_sealed({**images[0], "_revision": 1}).password, Sealed)


async def test_a_record_written_around_the_store_in_clear_is_refused(store: Store) -> None:
    record: Any = {"bot_id": "z", "secret": CANARY.encode()}
    await store.core.records.write(WriteSet((Put(Address("bots", ("z",)), record, ()),), store.core.now_us()))

    with pytest.raises(Unsealable, match="not stored sealed"):
        await store.get(Bot.at("z"))
