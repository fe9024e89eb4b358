"""Values typed on a command line, turned into what fields hold."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from palaver.cli.exits import Exit
from palaver.cli.problems import Stop
from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import Expression
from palaver.expr import And, Compare, Condition, F, Not, Path, parse_path
from palaver.fields import unwrap
from palaver.markers import Instant
from palaver.query import Query, UniqueAt
from palaver.schema import Schema

_AGO = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONDITION = re.compile(r"\s*(!?)([\w.\[\]-]+)\s*(?:(==|!=|<=|>=|\^=|~=|=|<|>)(.*))?", re.DOTALL)
_OPS = {"=": "==", "^=": "starts_with", "~=": "contains"}


def entity_of(schema: Schema, name: str) -> Declared:
    """Return an entity by class or table name; in any case of letters."""
    known = {**schema.entities, **schema.tables}
    folded = {key.casefold(): declared for key, declared in known.items()}
    found = folded.get(name.casefold())
    if found is None:
        raise Stop(Exit.USAGE, "entity", f"Schema {schema.name} has no entity {name[:60]}.", hint=_entities_like(name, schema))
    return found


def _entities_like(name: str, schema: Schema) -> str:
    """Return a hint: the nearest class or table, and else the classes, by which people know entities."""
    from palaver.errors import did_you_mean

    near = did_you_mean(name, [*schema.entities, *schema.tables])
    return near if near.startswith("Did you mean") else did_you_mean(name, schema.entities)


def moment(text: str, now: datetime) -> datetime:
    """Return an instant written as 7d (that long ago), as a date or as a date with a time; UTC where no zone is given."""
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNIT[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise Stop(Exit.USAGE, "moment", "A moment could not be read.", hint="Write 7d, 12h, 2026-11-20 or 2026-11-20T18:30.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def conditions(entity: type[Entity], texts: list[str] | None, now: datetime) -> Condition | None:
    """Return what `--where` asks: every text must hold. Raises Stop and Expression."""
    return both([condition(entity, text, now) for text in texts or ()])


def both(parts: list[Condition]) -> Condition | None:
    return reduce(lambda left, right: And((left, right)), parts) if parts else None


def condition(entity: type[Entity] | None, text: str, now: datetime) -> Condition:
    """Read one condition: `path=value`, `!=`, `<`, `<=`, `>`, `>=`, `^=` begins with, `~=` contains, `path`, `!path`."""
    found = _CONDITION.fullmatch(text)
    if found is None or (found[1] and found[3]):
        hint = "Write intent.name=fixtures; also != < <= > >= ^= (begins with) ~= (contains), or a path alone: it is there."
        raise Stop(Exit.USAGE, "where", "A condition could not be read.", hint=hint)
    path = F(found[2])
    if found[3] is None:
        return path.missing() if found[1] else path.exists()
    op: Any = _OPS.get(found[3], found[3])
    if entity is None:
        return Compare(path, op, guessed(found[4]))
    value = value_of(entity, path, found[4], now, element=op == "contains")
    if value is None:
        return Not(path.exists()) if op == "==" else path.exists()
    return Compare(path, op, value)


def value_of(entity: type[Entity], path: Path, text: str, now: datetime, *, element: bool = False) -> Any:
    """Return a text as the type its field is declared with; None for `null`."""
    entity.locate(path)
    annotation = annotation_at(entity, path, element=element)
    bare, markers, _ = unwrap(annotation)
    if text == "null":
        return None
    if bare is Any:
        return guessed(text)
    if bare is str:
        return text
    if bare is datetime or any(isinstance(marker, Instant) for marker in markers):
        return moment(text, now)
    try:
        return TypeAdapter(bare).validate_strings(text)
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise Expression(f"{entity.__name__}.{path} cannot be compared with this value: {reason}.", entity=entity.__name__) from None


def guessed(text: str) -> Any:
    """Return a JSON scalar where the text is one, else the text: for content without a declared type."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def annotation_at(entity: type[BaseModel], path: Path, *, element: bool = False) -> Any:
    """Return the annotation at a path, Any where the content is open."""
    here: Any = entity
    for step in parse_path(path):
        here = unwrap(here)[0]
        if isinstance(step, str) and isinstance(here, type) and issubclass(here, BaseModel):
            info = here.model_fields.get(step)
            here = Any if info is None else Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        else:
            here = _element(here)
    bare = unwrap(here)[0]
    return _element(bare) if element and bare is not str else here


def _element(bare: Any) -> Any:
    arguments = getattr(bare, "__args__", None)
    return arguments[-1] if arguments and arguments[-1] is not Ellipsis else arguments[0] if arguments else Any


def asked(declared: Declared, by: str, values: tuple[str, ...], now: datetime) -> Query[Any] | UniqueAt[Any]:
    """Return the query, or the look-up of a unique set, that an index name and its values make."""
    from palaver.errors import did_you_mean

    known = {name: path.parts for name, path in declared.access.items()} | {name: unique.parts for name, unique in declared.uniques.items()}
    if by not in known:
        raise Stop(Exit.USAGE, "index", f"{declared.name} has no index {by[:60]}.", hint=did_you_mean(by, known))
    parts = known[by]
    typed = [
        value_of(declared.entity, Path(part.path), text, now) if part.path in declared.fields or "." in part.path else text
        for part, text in zip(parts, values, strict=False)
    ]
    return getattr(declared.entity, by)(*typed, *values[len(parts) :])  # type: ignore[no-any-return]
