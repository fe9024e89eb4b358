"""Commands over a schema of one's own whose stores are bound to tenants."""

from __future__ import annotations

from pathlib import Path

import pytest

from palaver import open_sync
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

SOURCE = """
from typing import Annotated

from palaver import Entity, Key, Schema, Subject, Tenant


class Note(Entity, table="notes"):
    tenant: Annotated[str, Tenant()]
    person: Annotated[str, Subject()]
    id: str
    text: str
    key = Key("person", sort="id")


SCHEMA = Schema("mine", [Note])
"""


@pytest.fixture
def two(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A database with a note of each of two tenants, and the options that name it."""
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "two_tenants.py").write_text(SOURCE, encoding="utf-8")
    import two_tenants  # type: ignore[import-not-found]

    with open_sync("mine.db", schema=two_tenants.SCHEMA) as store:
        for tenant in ("acme", "beta"):
            store.for_tenant(tenant).create(two_tenants.Note(tenant=tenant, person="ann", id="1", text=f"Milk for {tenant}"))
    return "-u", "mine.db", "--schema", "two_tenants:SCHEMA"


@pytest.mark.parametrize("tokens", [("query", "Note"), ("export", "Note"), ("export", "-o", "all"), ("purge", "ann", "--dry-run")])
def test_what_needs_a_tenant_says_how_one_is_named(palaver: Palaver, two: tuple[str, ...], tokens: tuple[str, ...]) -> None:
    ran = palaver(*tokens, *two)

    assert (Exit.USAGE, "no_tenant") == (ran.code, ran.problem["code"])
    assert "--tenant" in ran.problem["hint"]


def test_a_tenant_is_looked_at_exported_and_purged_alone(palaver: Palaver, two: tuple[str, ...], elsewhere: Path) -> None:
    seen = palaver("query", "Note", "ann", "--tenant", "beta", *two).json["data"]
    exported = palaver("export", "-o", "beta", "--tenant", "beta", *two).json
    purged = palaver("purge", "ann", "--tenant", "beta", "--yes", *two).json

    assert ["Milk for beta"] == [note["text"] for note in seen]
    assert [1] == [file["records"] for file in exported["files"]]
    assert {"Note": 1} == purged["deleted"]
    assert [] == palaver("query", "Note", "--tenant", "beta", *two).json["data"]
    assert ["Milk for acme"] == [note["text"] for note in palaver("query", "Note", "--tenant", "acme", *two).json["data"]]


@pytest.mark.parametrize("tokens", [("health",), ("doctor",), ("sweep",), ("schema", "check"), ("work", "--once")])
def test_what_is_of_the_whole_database_needs_no_tenant(palaver: Palaver, two: tuple[str, ...], tokens: tuple[str, ...]) -> None:
    assert Exit.OK == palaver(*tokens, *two).code
