"""A change of all users, in batches that can be cut off anywhere: each batch commits with the mark of how far it came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from palaver.batch import Batch, unchanged
from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import DataMigration, User
from palaver.blueprints.simple_agent.settings import Settings
from palaver.errors import AlreadyExists, ConditionFailed, Conflict, TransactionCancelled, Validation
from palaver.expr import F
from palaver.store import Store

Transform: TypeAlias = Callable[[User], Mapping[str, Any] | None]
ATTEMPTS = 20
MOST = 90


async def migrate_users(store: Store, settings: Settings, name: str, transform: Transform, *, batch_size: int = 40) -> DataMigration:
    """Run a named change of all users of a tenant from where it stopped to the end; return what it came to."""
    if not 1 <= batch_size <= MOST:
        raise Validation(f"A batch of users is 1 to {MOST}: they are one commit with their mark.")
    mark = await _mark(store, settings.qualified(name))
    while not mark.done:
        mark = await _batch(store, settings.tenant, mark, transform, batch_size)
    return mark


async def _mark(store: Store, name: str) -> DataMigration:
    now = store.clock.now()
    found = await store.find(DataMigration.at(name))
    if found is not None:
        return found
    try:
        return await store.create(DataMigration(name=name, started_at=now, updated_at=now))
    except AlreadyExists:
        # Another process began it; the two take turns, because each batch needs the mark as it was read.
        return await store.get(DataMigration.at(name))


async def _batch(store: Store, tenant: str, mark: DataMigration, transform: Transform, batch_size: int) -> DataMigration:
    """Change the next users and move the mark, all in one commit."""
    for _ in range(ATTEMPTS):
        wanted = patterns.users_by_id(mark.after).filter(F("tenant") == tenant).limit(batch_size)
        users = [user async for user in store.query(wanted)]
        now, batch, changed = store.clock.now(), Batch(), 0
        for listed in users:
            # The list comes from an index, which may be behind; what is changed is the record itself.
            user = await store.find(listed.address)
            change = None if user is None else transform(user)
            if user is not None and change:
                batch = batch.patch(user, set={**change, "updated_at": now}, when=unchanged(user))
                changed += 1
        progress: dict[str, Any] = {"updated_at": now, "done": len(users) < batch_size}
        if users:
            progress["after"] = users[-1].user_id
        batch = batch.patch(mark, set=progress, add={"seen": len(users), "changed": changed}, when=unchanged(mark))
        try:
            written = (await store.write(batch, returning=True))[-1]
        except (TransactionCancelled, ConditionFailed):
            # A user was changed meanwhile, or another process moved the mark: decide anew from what is there now.
            mark = await store.get(mark.address)
            if mark.done:
                return mark
            continue
        assert isinstance(written, DataMigration)
        return written
    raise Conflict("The users kept being changed.", hint="Run it again: it goes on where it stopped.")
