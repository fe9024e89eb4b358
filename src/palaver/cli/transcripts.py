"""How commands find a conversation in any schema: the blueprint's `Transcripts`, and what an identifier names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palaver.cli.context import Context
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop
from palaver.errors import Validation
from palaver.query import Query
from palaver.turns.transcripts import Transcripts

if TYPE_CHECKING:
    from palaver.declared import Declared
    from palaver.keys import AccessPath
    from palaver.store import Store


@dataclass(frozen=True, slots=True)
class Place:
    """Whose conversation an identifier names, and which.

    `message`: the identifier was that of a message in it. `tenant`: whose it is where the tenant is a field like any other.
    """

    owner: str
    conversation: str
    message: bool = False
    tenant: str | None = None


async def transcripts_of(here: Context, store: Store, tenant: str | None = None) -> Transcripts:
    """Return the class beside the schema that fulfils `Transcripts`, over this store, for a tenant where the class has them."""
    home = await here.home()
    for value in vars(home).values():
        if isinstance(value, type) and value is not Transcripts and issubclass(value, Transcripts):
            made: Any = value
            found: Any = made(store)
            whole: Transcripts = found.for_tenant(tenant) if tenant is not None and hasattr(found, "for_tenant") else found
            return whole
    raise Stop(
        Exit.USAGE,
        "no_transcripts",
        f"{home.__name__} has no class with the methods of palaver.turns.Transcripts, so conversations cannot be shown.",
        hint="Use `palaver query`, or write such a class beside the schema.",
    )


async def place_of(store: Store, id: str, user: str | None) -> Place:
    """Return what an identifier names: a message, by what is unique or by an index of its own, or a conversation. Raises Stop."""
    for declared in store.schema.entities.values():
        if "conversation_id" in declared.fields and (found := await _message(store, declared, id)):
            return _place(declared, found, True)
    for declared in store.schema.entities.values():
        for name, path in declared.access.items():
            if _found_by(path) == "conversation_id" and (found := await _first(store, declared, name, id)):
                return _place(declared, found, False)
    if user is not None:
        return Place(user, id)
    raise Stop(
        Exit.NOT_FOUND,
        "not_found",
        "No conversation or message has this identifier.",
        hint="It may have expired; `palaver search` finds others.",
    )


async def _message(store: Store, declared: Declared, id: str) -> Any:
    """Return the message an identifier names, of an entity whose records lie by conversation."""
    for name, unique in declared.uniques.items():
        if [part.path for part in unique.parts] == ["message_id"] and (found := await _unique(store, declared, name, id)):
            return found
    key = declared.access["key"]
    if [part.path for part in key.parts] != ["conversation_id", "message_id"]:
        return None
    for name, path in declared.access.items():
        if _found_by(path) == "message_id" and (found := await _first(store, declared, name, id)):
            return found
    return None


def _found_by(path: AccessPath) -> str | None:
    """Return the one field that has to be known to read an index."""
    return path.partition[0].path if len(path.partition) == 1 and not path.shards else None


async def _first(store: Store, declared: Declared, name: str, id: str) -> Any:
    try:
        query: Query[Any] = getattr(declared.entity, name)(id)
        async for record in store.query(query.limit(1)):
            return record
    except Validation:
        # An identifier of another form names nothing here.
        return None
    return None


async def _unique(store: Store, declared: Declared, name: str, id: str) -> Any:
    try:
        return await store.find(getattr(declared.entity, name)(id))
    except Validation:
        # An identifier of another form names nothing here.
        return None


def _place(declared: Declared, record: Any, message: bool) -> Place:
    subject = declared.subject.name if declared.subject else "user_id"
    tenant = None if declared.tenant else getattr(record, "tenant", None)
    return Place(str(getattr(record, subject, "")), str(record.conversation_id), message, tenant)
