"""The entity cache: teams, competitions and players under every name they go by, until they have to be fetched again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from pydantic import JsonValue

from palaver.batch import Batch, unchanged
from palaver.blueprints.baller import patterns
from palaver.blueprints.baller.names import normalized
from palaver.blueprints.baller.schema import CachedEntity, EntityAlias, EntityType, Retention
from palaver.errors import ConditionFailed, Conflict, Validation
from palaver.store import Store
from palaver.turns.refusing import refusing

MOST_NAMES = 90
ATTEMPTS = 5
TYPES: tuple[EntityType, ...] = get_args(EntityType)


class EntityCache:
    """Looks entities up by any name; one row per normalised name is written in the same batch as its entity."""

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store, self._retention = store, retention

    async def put(
        self,
        entity_type: EntityType,
        entity_id: str,
        name: str,
        *,
        aliases: Iterable[str] = (),
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> CachedEntity:
        """Store an entity as fetched now, in place of what was cached; it is there until its type's time is over.

        Raises Validation over 90 different names. Of several at once, one is stored.
        """
        if entity_type not in TYPES:
            raise Validation(f"The entity_type of a cached entity is {', '.join(TYPES)}.", entity="CachedEntity", field="entity_type")
        now = self._store.clock.now()
        expires = now + self._retention.of_cached(entity_type)
        other = [alias for alias in dict.fromkeys(aliases) if alias and alias != name]
        names = {normalized(called): called for called in (*reversed(other), name)}
        if len(names) > MOST_NAMES:
            raise Validation(f"A cached entity has more than {MOST_NAMES} names.", hint="Keep the most used.", entity="CachedEntity")
        with refusing():
            entity = CachedEntity(
                entity_id=entity_id,
                entity_type=entity_type,
                name=name,
                normalized_name=normalized(name),
                aliases=other,
                metadata=dict(metadata or {}),
                last_updated=now,
                expires=expires,
            )
        batch = Batch().put(entity)
        for form, called in names.items():
            row = EntityAlias(entity_type=entity_type, normalized_alias=form, entity_id=entity_id, alias=called, expires=expires)
            batch = batch.put(row)
        stored = await self._written(batch, entity)
        await self._forget_names(stored)
        return stored

    async def _written(self, batch: Batch, entity: CachedEntity) -> CachedEntity:
        """Write an entity with its names; when others fetched it at the same time, theirs is as good."""
        for _ in range(ATTEMPTS):
            try:
                stored = (await self._store.write(batch))[0]
            except Conflict:
                stored = await self.get(entity.entity_type, entity.entity_id)
                if stored is None or stored.last_updated < entity.last_updated:
                    continue
            assert isinstance(stored, CachedEntity)
            return stored
        raise Conflict("Others kept writing this entity.", hint="Try again after a random pause.", entity="CachedEntity")

    async def _forget_names(self, entity: CachedEntity) -> None:
        """Remove rows of names the entity no longer has; until then a look-up drops them, because the entity decides."""
        async for row in self._store.query(patterns.aliases_of(entity.entity_id, entity.entity_type)):
            if row.normalized_alias in _forms(entity):
                continue
            try:
                await self._store.delete(row, when=unchanged(row))
            except ConditionFailed:
                # It was written again since it was read: somebody stored the name anew.
                continue

    async def get(self, entity_type: EntityType, entity_id: str) -> CachedEntity | None:
        """Return an entity by its identifier, None when it has to be fetched."""
        return await self._store.find(CachedEntity.at(entity_id, entity_type))

    async def look_up(self, entity_type: EntityType, name: str) -> Sequence[CachedEntity]:
        """Return the entities of a type that go by this name or alias, in whatever spelling; several may share one."""
        form = normalized(name)
        if not form:
            return []
        found: list[CachedEntity] = []
        async for row in self._store.query(patterns.names_of(entity_type, name)):
            entity = await self.get(entity_type, row.entity_id)
            if entity is not None and form in _forms(entity):
                found.append(entity)
        # Whose own name it is comes before those it is only an alias of.
        return sorted(found, key=lambda entity: entity.normalized_name != form)

    async def resolve(self, entity_type: EntityType, name: str) -> CachedEntity | None:
        """Return the entity that goes by this name, None when no one or more than one does and none has it as its own."""
        found = await self.look_up(entity_type, name)
        own = [entity for entity in found if entity.normalized_name == normalized(name)]
        chosen = own or found
        return chosen[0] if len(chosen) == 1 else None

    async def forget(self, entity_type: EntityType, entity_id: str) -> None:
        """Remove an entity with all its names."""
        await self._store.delete(CachedEntity.at(entity_id, entity_type))


def _forms(entity: CachedEntity) -> set[str]:
    return {entity.normalized_name, *map(normalized, entity.aliases)}
