"""The quarterly purge: personal data of those nobody has seen since an instant, deleted or masked as a policy says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from palaver.errors import SchemaError
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.erase import Erased, erase, scrubbed
from palaver.lifecycle.personal import Policy
from palaver.query import Query
from palaver.store import Store

MASK = Policy(otherwise="mask")


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
    persons, total = 0, Erased()
    async for entity in store.query(inactive):
        if most is not None and persons >= most:
            break
        current = await store.find(entity.address)
        if current is None or current.revision != entity.revision:
            continue  # seen since, or gone
        subject = str(getattr(entity, declared.subject.name))
        total += await erase(store, subject, policy=chosen, archive=archive, dry_run=dry_run, scrub=False, timeout=timeout)
        persons += 1
        advance()
    if persons and not dry_run:
        await scrubbed(store)
    return Purged(persons, total)
