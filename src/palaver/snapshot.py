"""A schema as plain JSON values: what is kept with the data, and what one version of a schema is compared with another by.

Everything that decides how stored records are read is in it; names of Python modules, defaults and docstrings are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date, timedelta
from enum import EnumMeta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from palaver.clock import from_ms
from palaver.declared import Declared
from palaver.fields import _INSTANTS, _SCALARS, DIGITS, LARGE, Kind, kind_of, stored_name, unwrap
from palaver.keys import Part
from palaver.markers import Blob
from palaver.structure import Belt, Column, IndexSpec, Ranges, Table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from palaver.schema import CompiledSearch, Schema

FORMAT = 2
_FORMS: Mapping[Any, str] = {
    from_ms: "instant_ms",
    _INSTANTS["s"].decode: "instant_s",
    _INSTANTS["text"].decode: "instant_text",
    DIGITS.decode: "digits",
    _SCALARS[timedelta].decode: "span",
    date.fromisoformat: "date",
    UUID: "uuid",
}


def snapshot(schema: Schema) -> dict[str, Any]:
    """Return the schema as plain JSON values, the same for the same declaration."""
    return {
        "format": FORMAT,
        "name": schema.name,
        "version": schema.version,
        "entities": [_entity(schema.entities[name]) for name in sorted(schema.entities)],
        "searches": [_search(schema.searches[name]) for name in sorted(schema.searches)],
    }


def _entity(declared: Declared) -> dict[str, Any]:
    return {
        "name": declared.name,
        "table": plain_table(declared.table),
        "fields": {
            spec.name: {
                "stored": spec.stored,
                "form": form(spec.kind),
                "optional": spec.optional,
                "required": not spec.optional and spec.default is None,
                "blob": spec.marker(Blob) is not None,
            }
            for spec in declared.fields.values()
        },
        "shadows": computed(declared),
        "uniques": {
            name: {"fields": [part.path for part in unique.parts], "when": "" if unique.when is None else repr(unique.when)}
            for name, unique in declared.uniques.items()
        },
        "references": {ref.name: {"fields": list(ref.fields), "to": _named(ref.to), "on_delete": ref.on_delete} for ref in declared.refs},
        "history_s": None if declared.history is None else declared.history // timedelta(seconds=1),
    }


def computed(declared: Declared) -> dict[str, str]:
    """Return what each shadow column is computed from, and how, in words that change with it."""
    return {
        **{column: _computed(declared, part) for column, part in declared.shadows},
        **{path.shard_column: f"one of {path.shards} shards" for path in declared.sharded},
    }


def _computed(declared: Declared, part: Part) -> str:
    """Say what a shadow column is computed from, and how."""
    spec = declared.fields[str(part.steps[0])]
    how = form(spec.kind) if len(part.steps) == 1 else "value"
    return f"{part.column_kind} of {part.path} as {how}" + (f" without {', '.join(map(repr, part.sentinels))}" if part.sentinels else "")


def _named(to: Any) -> str:
    target = to() if callable(to) and not isinstance(to, type) else to
    return target if isinstance(target, str) else str(target.__name__)


def _search(search: CompiledSearch) -> dict[str, Any]:
    return {
        "name": search.name,
        "text": list(search.text),
        "filters": dict(search.filters),
        "required": list(search.required),
        "sources": [
            {
                "entity": source.declared.name,
                "table": source.declared.table.name,
                "text": [[name, list(path)] for name, path in source.text],
                "filters": [[name, list(path), kind] for name, path, kind in source.filters],
            }
            for source in search.sources
        ],
    }


# --- how a value is stored ------------------------------------------------------------------------------------------


def form(kind: Kind, inside: tuple[type[BaseModel], ...] = ()) -> Any:
    """Return how values of a kind are stored, as plain JSON: two kinds of one form read each other's records alike."""
    if kind.sealed is not None:
        return {"sealed": form(kind.sealed, inside)}
    if kind.model is not None:
        if kind.model in inside:
            return {"model": kind.model.__name__}
        return {"model": dict(_parts(kind.model, (*inside, kind.model)))}
    if kind.element is not None:
        return {"set" if kind.form is frozenset else "map" if kind.open else "list": form(kind.element, inside)}
    if kind is LARGE:
        return "object"
    if kind.column == "json":
        return "any" if kind.encode is None else "union"
    if kind.decode is None or isinstance(kind.decode, EnumMeta):
        return kind.column
    return _FORMS.get(kind.decode, f"{kind.column} of names")


def _parts(model: type[BaseModel], inside: tuple[type[BaseModel], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, info in model.model_fields.items():
        required = info.is_required() and not unwrap(info.annotation, info.metadata)[2]
        yield stored_name(name, info), {"form": form(kind_of(info.annotation, info.metadata), inside), "required": required}


# --- tables ---------------------------------------------------------------------------------------------------------


def plain_table(table: Table) -> dict[str, Any]:
    """Return a table as JSON values; `table_of` gives it back."""
    plain: dict[str, Any] = _listed(asdict(table))
    # No database keeps it with the table.
    del plain["tenant"]
    # Only where it is asked for: schemas that do not ask are the same as before.
    if plain["ranges"] is None:
        del plain["ranges"]
    return plain


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


def table_of(plain: Mapping[str, Any]) -> Table:
    """Return the table that was written down."""
    return Table(
        name=plain["name"],
        entity=plain["entity"],
        columns=tuple(column_of(column) for column in plain["columns"]),
        partition=tuple(plain["partition"]),
        sort=tuple(plain["sort"]),
        indexes=tuple(index_of(index) for index in plain["indexes"]),
        expires=plain["expires"],
        feed=plain["feed"],
        swept=plain.get("swept", True),
        ranges=Ranges(**plain["ranges"]) if plain.get("ranges") else None,
        belts=tuple(Belt(tuple(belt["columns"]), belt["table"], tuple(belt["target"])) for belt in plain["belts"]),
    )


def column_of(plain: Mapping[str, Any]) -> Column:
    check = tuple(tuple(part) if isinstance(part, list) else part for part in plain["check"])
    return Column(plain["name"], plain["kind"], plain["required"], plain["shadow"], check)


def index_of(plain: Mapping[str, Any]) -> IndexSpec:
    return IndexSpec(plain["name"], tuple(plain["partition"]), tuple(plain["sort"]), plain["unique"])
