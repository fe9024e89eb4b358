"""Erasing and archiving in one tenant touches nothing of another, whatever the names."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import JsonValue

from palaver.clock import days
from palaver.entity import Entity
from palaver.errors import TenantMismatch
from palaver.keys import History, Index, Key, Unique
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import erase, repurge
from palaver.lifecycle.export import export
from palaver.lifecycle.ledger import Ledger
from palaver.markers import Blob, Personal, Searchable, Subject, Tenant
from palaver.schema import Schema, Search, Source
from palaver.store import Store
from tests.lifecycle.conftest import Opened
from tests.lifecycle.people import found_in

DAY = date(2026, 3, 10)


class Letter(Entity, table="letters"):
    org: Annotated[str, Tenant()]
    letter_id: str
    user_id: Annotated[str | None, Subject()] = None
    text: Annotated[str, Searchable(), Personal()]
    scan: Annotated[dict[str, JsonValue] | None, Personal(), Blob("scans/{letter_id}", inline=10)] = None
    key = Key("letter_id")
    by_user = Index("user_id", sort="letter_id")
    by_text = Unique("text")
    history = History(days(30))


SCHEMA = Schema("letters", [Letter], searches=[Search("letters", Source(Letter))])


async def write(store: Store, org: str) -> Store:
    mine = store.for_tenant(org)
    for number in range(3):
        letter = Letter(
            org=org, letter_id=f"{number}", user_id="u", text=f"canary{org}x {number}", scan={"is": f"canary{org}x long enough"}
        )
        await mine.patch(await mine.create(letter), set={"text": f"canary{org}x again {number}"})
    await mine.create(Letter(org=org, letter_id="nobody", text=f"of nobody in {org}"))
    await Archive(mine).run(DAY)
    return mine


@pytest.mark.parametrize("other", ["b", "archive", "-", "1:a"])
async def test_a_person_of_the_same_name_elsewhere_stays(opened: Opened, folder: Path, other: str) -> None:
    store = await opened(schema=SCHEMA)
    mine, theirs = await write(store, "a"), await write(store, other)
    await store.settle(10)
    before: Any = [line async for line in await export(theirs, Letter)]
    dry = await erase(mine, "u", dry_run=True)
    assert dry == await erase(mine, "u")
    assert ({"Letter": 3}, {"Letter": 6}, 3, 3, 3) == (dry.deleted, dry.images, dry.objects, dry.claims, dry.archived)
    assert {} == found_in(folder, "canaryax")
    assert before == [line async for line in await export(theirs, Letter)]
    assert {} != found_in(folder, f"canary{other}x")
    assert [] == await Archive(mine).verify(DAY)
    assert 4 == len([record async for record in Archive(theirs).records(DAY, Letter)])
    assert ["nobody"] == [record["letter_id"] async for record in Archive(mine).records(DAY, Letter)]
    assert [] == await Ledger(theirs).entries()


async def test_a_ledger_of_one_tenant_purges_nobody_of_another(opened: Opened) -> None:
    store = await opened(schema=SCHEMA)
    mine, theirs = await write(store, "a"), await write(store, "b")
    await erase(mine, "u")
    entries = await Ledger(mine).entries()
    assert 0 == (await repurge(theirs, entries)).total


async def test_a_store_bound_to_no_tenant_erases_nobody(opened: Opened) -> None:
    store = await opened(schema=SCHEMA)
    with pytest.raises(TenantMismatch):
        await erase(store, "u")
