"""Where keys come from, what happens without them, and how they are rotated while others write."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver import Batch, Store
from palaver.errors import ConfigError, Conflict, Unsealable
from palaver.known_keys import KNOWN, known as known_ids
from palaver.lifecycle.resealing import ROTATION, rotate, sealed_with
from palaver.ops import Update
from palaver.seal_keys import keys_beside
from palaver.sealing import Sealer, SealKey, key_id, new_key, sealer_of
from tests.sealing.app import CANARY, VAULT, Bot, Channel, Named, channel, shown, walked
from tests.sealing.conftest import Opener
from tests.stacks import fresh

OLD, NEW = new_key(), new_key()


def name(key: str) -> str:
    return SealKey.parse(key).id.hex()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, url: str) -> Any:
    """Configure keys, the first of which seals."""
    return lambda *given: monkeypatch.setenv("PALAVER_SEAL_KEYS", ",".join(given))


async def known(store: Store) -> list[str]:
    body: Any = ((await store.core.records.get((KNOWN,)))[0] or {})["body"]
    return list(body["ids"])


async def reopened(store: Store, opened: Opener, url: str) -> Store:
    """Return a store of the same data with the keys that are configured now."""
    if not url.startswith("memory:"):
        await store.aclose()
        return await opened()
    from palaver.seal_keys import sealer_for
    from palaver.url import parse_url

    store.core.planner.seals_with(await sealer_for(VAULT, parse_url(url), store.core.records))
    return store


# --- rotation -------------------------------------------------------------------------------------------------------


async def test_keys_are_rotated_and_the_old_one_is_needed_no_more(opened: Opener, url: str, keys: Any) -> None:
    keys(OLD)
    store = await opened()
    await store.create(channel())
    await store.patch(Channel.at("c"), set={"password": "p"})
    await store.bulk([Bot(bot_id=str(number), secret=f"s{number}", other="o") for number in range(450)])
    assert [name(OLD)] == await known(store)

    keys(NEW, OLD)
    store = await reopened(store, opened, url)
    assert "s7" == (await store.get(Bot.at("7"))).secret
    await store.put(Named(named_id="n", name="n", secret="new"))
    before = await sealed_with(store)
    rotated = await rotate(store)

    assert {name(OLD): 450} == before["Bot.secret"]
    assert (0, (name(NEW),)) == (rotated.unsealable, rotated.keys)
    # The record, and an image of it for each of the two writes.
    assert 450 + 3 == rotated.resealed
    after = await sealed_with(store)
    assert {name(NEW)} == {key for counts in after.values() for key in counts}
    assert {field: sum(counts.values()) for field, counts in before.items()} == {f: sum(counts.values()) for f, counts in after.items()}
    assert 0 == (await rotate(store)).resealed
    keys(NEW)
    store = await reopened(store, opened, url)
    assert ["s0", "s449"] == [(await store.get(Bot.at(each))).secret for each in ("0", "449")]
    assert (await store.get(Channel.at("c"))).credentials == channel().credentials
    assert [name(NEW)] == await known(store)


async def test_a_rotation_goes_on_where_it_was_and_writers_lose_nothing(
    opened: Opener, url: str, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(OLD)
    store = await opened()
    await store.bulk([Bot(bot_id=f"{number:04d}", secret="s", other="o") for number in range(600)])
    keys(NEW, OLD)
    store = await reopened(store, opened, url)
    write, seen = store.core.records.write, 0

    async def meddled(writes: Any) -> Any:
        """Change a record just before it is sealed anew, and fall over in the middle of it all."""
        nonlocal seen
        if writes.cause.actor == "rotate" and isinstance(writes.ops[0], Update):
            seen += 1
            if seen == 2:
                await store.patch(Bot.at(*writes.ops[0].at.key), add={"runs": 1}, set={"other": "meanwhile"})
            if seen == 9:
                raise Conflict("It was cut off.")
        return await write(writes)

    monkeypatch.setattr(store.core.records, "write", meddled)
    with pytest.raises(Conflict, match="cut off"):
        await rotate(store)
    body: Any = ((await store.core.records.get((ROTATION,)))[0] or {})["body"]
    assert ("bots", name(NEW)) == (body["table"], body["to"])
    left = (await sealed_with(store))["Bot.secret"]
    assert 0 < left[name(OLD)] < 600

    rotated = await rotate(store)

    assert (left[name(OLD)], (name(NEW),)) == (rotated.resealed, rotated.keys)
    assert {name(NEW): 600} == (await sealed_with(store))["Bot.secret"]
    changed = [each for each in [await store.get(Bot.at(f"{number:04d}")) for number in range(600)] if each.runs]
    assert [("s", "meanwhile", 1)] == [(each.secret, each.other, each.runs) for each in changed]


async def test_what_no_key_opens_stays_and_its_key_is_not_forgotten(opened: Opener, url: str, keys: Any) -> None:
    keys(OLD)
    store = await opened()
    await store.bulk([Bot(bot_id="a", secret="a"), Bot(bot_id="b", secret="b")])
    at = store.core.planner.address(Bot.at("a"), None)
    record: Any = (await store.core.records.get((at,)))[0]
    from palaver.expr import Path as Column
    from palaver.ops import Set, WriteSet

    damaged = record["secret"][:-1] + bytes([record["secret"][-1] ^ 1])
    await store.core.records.write(WriteSet((Update(at, (Set(Column("secret"), damaged),), ()),), store.core.now_us()))
    keys(NEW, OLD)
    store = await reopened(store, opened, url)

    rotated = await rotate(store)

    assert (1, 1, (name(NEW), name(OLD))) == (rotated.resealed, rotated.unsealable, rotated.keys)
    assert [name(NEW), name(OLD)] == await known(store)


async def test_a_retry_after_a_rotation_is_still_a_retry(opened: Opener, url: str, keys: Any) -> None:
    batch = Batch().create(Bot(bot_id="a", secret="hunter2"))
    keys(OLD)
    store = await opened()
    await store.write(batch, token="t")
    keys(NEW, OLD)
    store = await reopened(store, opened, url)
    await rotate(store)

    assert "hunter2" == (await store.write(batch, token="t"))[0].secret  # type: ignore[union-attr]
    keys(NEW)
    store = await reopened(store, opened, url)
    with pytest.raises(Unsealable, match="first request"):
        await store.write(batch, token="t")


async def test_a_missing_key_is_missed_at_opening_and_an_unknown_one_at_reading(opened: Opener, url: str, keys: Any) -> None:
    keys(OLD)
    store = await opened()
    await store.create(Bot(bot_id="a", secret=CANARY))
    store.core.planner.seals_with(sealer_of([NEW]))
    with pytest.raises(Unsealable, match=f"sealed with key {name(OLD)}, which is not here"):
        await store.get(Bot.at("a"))
    if url.startswith("memory:"):
        return
    await store.aclose()
    keys(NEW)
    with pytest.raises(ConfigError, match=f"sealed with key {name(OLD)}"):
        await opened()
    keys(NEW, OLD)
    assert CANARY == (await (await opened()).get(Bot.at("a"))).secret


# --- where keys come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["postgresql", "dynamodb"], indirect=True)
async def test_a_server_without_a_key_is_refused_at_opening(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALAVER_SEAL_KEYS")
    with pytest.raises(ConfigError, match="Set PALAVER_SEAL_KEYS to what `palaver keys new` prints"):
        await opened()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PALAVER_SEAL_KEYS", raising=False)
    return tmp_path / "store.db"


def open_(file: Path, **options: Any) -> Any:
    return palaver.open(f"sqlite:///{file}", schema=VAULT, maintain=False, **options)


async def test_a_file_is_given_a_key_beside_it_that_only_its_owner_reads(file: Path) -> None:
    async with open_(file) as store:
        await store.create(Bot(bot_id="a", secret=CANARY))
    beside = keys_beside(str(file))
    assert 0o600 == stat.S_IMODE(beside.stat().st_mode)
    assert ["store.db", "store.db.keys"] == sorted(each for each in os.listdir(file.parent) if not each.endswith(".blobs"))
    text = beside.read_text()
    async with open_(file) as store:
        assert CANARY == (await store.get(Bot.at("a"))).secret
    assert text == beside.read_text()

    beside.unlink()
    with pytest.raises(ConfigError, match=r"store.db.keys is not beside it"):
        async with open_(file):
            pass
    assert not beside.exists()
    beside.write_text(text)
    beside.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        async with open_(file):
            pass


async def test_a_file_of_keys_is_rotated_by_a_new_first_line(file: Path) -> None:
    async with open_(file) as store:
        await store.create(Bot(bot_id="a", secret=CANARY))
    beside = keys_beside(str(file))
    beside.write_text(f"{NEW}\n{beside.read_text()}")
    async with open_(file) as store:
        assert (name(NEW),) == (await rotate(store)).keys
    beside.write_text(NEW)
    async with open_(file) as store:
        assert CANARY == (await store.get(Bot.at("a"))).secret


async def test_two_processes_that_make_a_key_have_one(file: Path) -> None:
    from palaver.seal_keys import _kept, _make

    beside = keys_beside(str(file))
    _make(beside)
    first = _kept(beside)
    _make(beside)

    assert first == _kept(beside)
    assert [beside.name] == os.listdir(file.parent)


async def test_keys_come_from_the_environment_or_a_file_it_names(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "keys"
    named.write_text(f"# ours\n{OLD}\n")
    named.chmod(0o600)
    monkeypatch.setenv("PALAVER_SEAL_KEYS", f"{NEW}, file:{named}")
    async with open_(file) as store:
        assert [name(NEW), name(OLD)] == store.core.planner.sealer.ids
    assert not keys_beside(str(file)).exists()
    for wrong, words in (("short", "not one of ours"), (f"{NEW}ü", "not one of ours"), (f"file:{tmp_path}/none", "cannot be read")):
        monkeypatch.setenv("PALAVER_SEAL_KEYS", wrong)
        with pytest.raises(ConfigError, match=words) as caught:
            async with open_(file):
                pass
        assert NEW not in "".join(walked(caught.value))


async def test_keys_come_from_the_file_the_other_variable_names(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "keys"
    named.write_text(f"# ours\n{NEW},{OLD}\n")
    named.chmod(0o600)
    monkeypatch.delenv("PALAVER_SEAL_KEYS", raising=False)
    monkeypatch.setenv("PALAVER_SEAL_KEYS_FILE", str(named))
    async with open_(file) as store:
        assert [name(NEW), name(OLD)] == store.core.planner.sealer.ids
    assert not keys_beside(str(file)).exists()
    monkeypatch.setenv("PALAVER_SEAL_KEYS", NEW)
    with pytest.raises(ConfigError, match="are both set"):
        async with open_(file):
            pass
    monkeypatch.delenv("PALAVER_SEAL_KEYS")
    named.chmod(0o644)
    with pytest.raises(ConfigError, match="others than its owner"):
        async with open_(file):
            pass


async def test_without_the_package_the_extra_is_named_and_no_key_is_left_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r'pip install "palaver\[seal\]"'):
        async with open_(file):
            pass
    assert [] == os.listdir(file.parent)


async def test_a_schema_without_secrets_needs_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.evolve.cases import thing

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    async with palaver.open(f"sqlite:///{file}", schema=thing({"n": int}), maintain=False):
        assert not keys_beside(str(file)).exists()


async def test_a_file_opened_for_reading_is_given_no_key(file: Path) -> None:
    async with open_(file) as store:
        await store.create(Bot(bot_id="a", secret=CANARY))
    async with palaver.open(f"sqlite:///{file}?read_only=true", schema=VAULT, maintain=False, migrate=False) as store:
        assert CANARY == (await store.get(Bot.at("a"))).secret


def test_a_key_shows_its_name_and_nothing_of_itself() -> None:
    key = SealKey.parse(OLD)

    assert f"SealKey({name(OLD)})" == repr(key)
    assert key_id(Sealer([key]).seal("x", b"")) == name(OLD)
    assert 8 == len(key.id)
    assert [] == shown(repr([Sealer([key]), key]).encode(), OLD[:12])


# --- from one stack to another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sqlite", "postgresql", "dynamodb"])
async def test_a_copy_has_the_sealed_bytes_and_opens_with_the_same_keys(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palaver.lifecycle.copy import Copy
    from palaver.lifecycle.copy_ends import End
    from palaver.lifecycle.copy_verify import verify

    environ: dict[str, str] = {}
    (tmp_path / "to").mkdir()
    source, to = f"sqlite:///{tmp_path}/from.db", fresh(target, tmp_path / "to", environ)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PALAVER_SEAL_KEYS", OLD)
    async with palaver.open(source, schema=VAULT, maintain=False) as store:
        made = await store.create(channel())
        stored = (await store.core.records.get((store.core.planner.address(made.address, None),)))[0]
    monkeypatch.setenv("PALAVER_SEAL_KEYS", NEW)
    async with End.open(source, VAULT) as one, End.open(to, VAULT) as two:
        with pytest.raises(ConfigError, match=name(OLD)):
            await Copy(one, two).run()
    monkeypatch.setenv("PALAVER_SEAL_KEYS", f"{NEW},{OLD}")
    async with End.open(source, VAULT) as one, End.open(to, VAULT) as two:
        assert (await Copy(one, two).run()).finished
        assert (await verify(one, two)).same
        assert stored == (await two.records.get((two.core.planner.address(made.address, None),)))[0]
        # Also before anybody opens it, and were the source lost by then.
        assert [name(OLD)] == await known_ids(two.records)
    async with palaver.open(to, schema=VAULT, maintain=False) as store:
        assert made == await store.get(Channel.at("c"))
