"""How commands find a conversation in any schema: the blueprint's `Transcripts`, and what an identifier names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from palaver.cli.context import Context
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop
from palaver.errors import Validation
from palaver.query import Query
from palaver.turns.transcripts import Transcripts

if TYPE_CHECKING:
    from palaver.declared import Declared
    from palaver.store import Store


async def transcripts_of(here: Context, store: Store) -> Transcripts:
    """Return the class beside the schema that fulfils `Transcripts`, over this store."""
    home = await here.home()
    for value in vars(home).values():
        if isinstance(value, type) and value is not Transcripts and issubclass(value, Transcripts):
            made: Any = value
            found: Transcripts = made(store)
            return found
    raise Stop(
        Exit.USAGE,
        "no_transcripts",
        f"{home.__name__} has no class with the methods of palaver.turns.Transcripts, so conversations cannot be shown.",
        hint="Use `palaver query`, or write such a class beside the schema.",
    )


async def place_of(store: Store, id: str, user: str | None) -> tuple[str, str, bool]:
    """Return whose conversation an identifier names, which, and whether it named a message of it. Raises Stop."""
    for declared in store.schema.entities.values():
        for name, unique in declared.uniques.items():
            if len(unique.parts) == 1 and "conversation_id" in declared.fields and (found := await _unique(store, declared, name, id)):
                return _place(declared, found, True)
    for declared in store.schema.entities.values():
        for name, path in declared.access.items():
            if [part.path for part in path.partition] == ["conversation_id"] and not path.shards:
                query: Query[Any] = getattr(declared.entity, name)(id)
                async for record in store.query(query.limit(1)):
                    return _place(declared, record, False)
    if user is not None:
        return user, id, False
    raise Stop(
        Exit.NOT_FOUND,
        "not_found",
        "No conversation or message has this identifier.",
        hint="It may have expired; `palaver search` finds others.",
    )


async def _unique(store: Store, declared: Declared, name: str, id: str) -> Any:
    try:
        return await store.find(getattr(declared.entity, name)(id))
    except Validation:
        # An identifier of another form names nothing here.
        return None


def _place(declared: Declared, record: Any, message: bool) -> tuple[str, str, bool]:
    subject = declared.subject.name if declared.subject else "user_id"
    return str(getattr(record, subject, "")), str(record.conversation_id), message
