"""The command line where the schema has secrets: what it never prints, and `palaver keys`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import pytest

import palaver as library
from palaver import Schema, Secret
from palaver.cli.exits import Exit
from palaver.seal_keys import keys_beside
from palaver.sealing import SealKey
from tests.cli.conftest import Palaver, elsewhere, palaver
from tests.evolve.cases import entity
from tests.sealing.app import VAULT, Bot, channel, files, shown

__all__ = ["elsewhere", "palaver"]

OPEN = Schema("words", [entity("Thing", {"word": str})])
SEALED = Schema("words", [entity("Thing", {"word": Annotated[str, Secret()]})])


@pytest.fixture
def vault(palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Palaver:
    """The command line over a database with secrets."""
    monkeypatch.delenv("PALAVER_SEAL_KEYS", raising=False)

    async def made() -> None:
        async with library.open("palaver.db", schema=VAULT, maintain=False) as store:
            await store.create(channel())
            await store.bulk([Bot(bot_id=str(number), secret="Canary7f3a") for number in range(9)])
            await store.settle()

    asyncio.run(made())
    return lambda *tokens: palaver(*tokens, "--schema", "tests.sealing.app:VAULT")


def test_no_command_prints_a_secret(vault: Palaver, elsewhere: Path) -> None:
    commands = [
        ("query", "Channel", "o", "--by", "by_owner"),
        ("query", "Bot", "1"),
        ("query", "Bot"),
        ("query", "Channel", "c", "--human"),
        ("query", "Channel", "o", "--by", "by_owner", "--explain"),
        ("search", "dortmund"),
        ("export", "--output", "out"),
        ("export", "--format", "csv", "--output", "out2"),
        ("tail", "--from-start", "--updates", "--once", "Channel", "Bot"),
        ("schema", "show"),
        ("schema", "show", "Channel", "--human"),
        ("migrate", "plan"),
        ("doctor",),
        ("health",),
        ("keys", "status"),
        ("keys", "status", "--human"),
        ("copy", "palaver.db", "copy.db", "--verify"),
    ]
    ran = {tokens: vault(*tokens) for tokens in commands}
    refused = vault("query", "Bot", "--where", "secret=Canary7f3a")

    assert {} == {tokens: each.err for tokens, each in ran.items() if each.code != Exit.OK}
    assert [] == [tokens for tokens, each in ran.items() if shown(f"{each.out}{each.err}".encode())]
    assert [] == shown(refused.err.encode())
    assert "is secret and cannot be asked for" in refused.problem["detail"]
    assert "dortmund" in ran["query", "Channel", "o", "--by", "by_owner"].out
    assert [] == shown(files(elsewhere))


def test_keys_are_made_counted_and_rotated(vault: Palaver, elsewhere: Path) -> None:
    made = vault("keys", "new")
    assert SealKey.parse(made.out).id
    assert made.out != vault("keys", "new").out
    file = keys_beside("palaver.db")
    old = SealKey.parse(file.read_text().splitlines()[-1]).id.hex()
    status = vault("keys", "status").json
    assert (old, [old]) == (status["seals"], status["opens"])
    assert {"field": "Bot.secret", "key": old, "count": 9} in status["secrets"]

    file.write_text(made.out + file.read_text())
    new = SealKey.parse(made.out).id.hex()
    assert Exit.DRIFT == vault("keys", "status").code
    rotated = vault("keys", "rotate")
    assert (Exit.OK, 0, [new]) == (rotated.code, rotated.json["unsealable"], rotated.json["keys"])
    assert Exit.OK == vault("keys", "status").code
    file.write_text(made.out)
    assert Exit.OK == vault("query", "Bot", "1").code


def test_a_missing_key_is_named_before_anything_is_read(vault: Palaver) -> None:
    keys_beside("palaver.db").unlink()
    ran = vault("query", "Bot", "1")

    assert "palaver.db.keys is not beside it" in ran.problem["detail"]
    assert not keys_beside("palaver.db").exists()


def test_making_a_field_secret_is_a_migration_that_leaves_no_byte_behind(
    palaver: Palaver, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PALAVER_SEAL_KEYS", raising=False)

    async def made() -> None:
        async with library.open("palaver.db", schema=OPEN, maintain=False) as store:
            thing: Any = OPEN.entities["Thing"].entity
            await store.bulk([thing(id=str(number), word=f"Canary7f3a {number} " * 20) for number in range(300)])

    asyncio.run(made())
    assert "plain" in shown(Path("palaver.db").read_bytes())
    assert Exit.OK == palaver("migrate", "apply", "--yes", "--schema", "tests.sealing.test_command:SEALED").code

    assert [] == shown(files(elsewhere))
    refused = palaver("migrate", "plan", "--schema", "tests.sealing.test_command:OPEN")
    assert "--allow-data-loss Thing.word" in refused.err
    allowed = palaver("migrate", "apply", "--yes", "--allow-data-loss", "Thing.word", "--schema", "tests.sealing.test_command:OPEN")
    assert Exit.OK == allowed.code, allowed.err
    assert "Canary7f3a 7 " in palaver("query", "Thing", "7", "--schema", "tests.sealing.test_command:OPEN").out
