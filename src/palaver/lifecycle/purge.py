"""The quarterly purge: personal data of those nobody has seen since an instant, deleted or masked as a policy says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from palaver.clock import to_us
from palaver.errors import SchemaError
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import Erased, erase_stored, scrubbed
from palaver.lifecycle.personal import Policy
from palaver.query import Query
from palaver.store import Store

MASK = Policy(otherwise="mask")
SKEW_US = 3_600_000_000
"""How far the clocks of processes may be apart that archive and purge at the same time."""

TOGETHER = 1_000
"""Persons an archive is written anew for at once."""


@dataclass(frozen=True)
class Purged:
    """How many persons were purged, and what was removed of all of them together."""

    persons: int = 0
    erased: Erased = field(default_factory=Erased)


async def purge_inactive(
    store: Store,
    inactive: Query[Any],
    *,
    policy: Policy = MASK,
    archive: Archive | None = None,
    dry_run: bool = False,
    most: int | None = None,
    timeout: float = 60.0,
    advance: Callable[[], object] = lambda: None,
) -> Purged:
    """Purge everybody a query finds: `Activity.by_last_seen().before(three_months_ago)`.

    The query is over an entity whose records say when a person was last seen; that record goes as well, so nobody is
    found twice, and whoever was seen again meanwhile is left alone. `most` bounds one run; the next one goes on.
    `advance` is called after each person.
    """
    declared = store.schema.of(inactive.entity)
    if declared.subject is None:
        raise SchemaError(f"{declared.name} does not say whom it is about.", hint="Mark a field with Subject().", entity=declared.name)
    chosen = replace(policy, actions={inactive.entity: "delete", **policy.actions})
    kept, name = archive or Archive(store), declared.subject.name
    persons, total = 0, Erased()
    async for group in _groups(store, inactive, most):
        subjects = [str(getattr(entity, name)) for entity in group]
        began_us = to_us(store.clock.now())
        # Archives first: whose records are gone, nobody finds again, and a purge that is cut off would leave them archived.
        total.archived += await (kept.count(subjects, chosen) if dry_run else kept.rewrite(subjects, chosen))
        for subject in subjects:
            total += await erase_stored(store, subject, policy=chosen, dry_run=dry_run, timeout=timeout)
            advance()
        if not dry_run:
            await kept.rewrite(subjects, chosen, since_us=began_us - SKEW_US)
        persons += len(group)
    if persons and not dry_run:
        await scrubbed(store)
    return Purged(persons, total)


async def _groups(store: Store, inactive: Query[Any], most: int | None) -> AsyncIterator[list[Any]]:
    """Yield whom a query finds and nobody has seen since, some at a time: archives are written anew for each group."""
    group: list[Any] = []
    found = 0
    async for entity in store.query(inactive):
        if most is not None and found >= most:
            break
        current = await store.find(entity.address)
        if current is None or current.revision != entity.revision:
            continue  # seen since, or gone
        group.append(entity)
        found += 1
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group
