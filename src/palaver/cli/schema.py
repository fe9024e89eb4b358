"""`palaver schema`: what is declared, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits

if TYPE_CHECKING:
    from palaver.declared import Declared
    from palaver.schema import Schema

app = App(name="schema", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@app.command
@emits("schema_check")
async def check(*, here: Here) -> int:
    """Lint the schema for every engine, and compare it with the database where there is one.

    Exits 0 when nothing needs doing, 1 for errors in the declaration, 7 when the database lacks something.
    """
    from palaver.errors import SchemaError

    try:
        schema = await here.schema()
    except SchemaError as error:
        found = list(error.context.get("diagnostics", ())) or None
        if found is None:
            raise
        _print_check(here, [_row(each) for each in found], [])
        return Exit.FAILURE
    missing = await here.missing(schema)
    _print_check(here, [_row(each) for each in schema.diagnostics], missing)
    return Exit.DRIFT if missing else Exit.OK


@app.command
@emits("schema")
async def show(entity: str | None = None, /, *, here: Here) -> int:
    """Print the entities with their fields, keys, indexes and references.

    Parameters
    ----------
    entity
        One entity only.
    """
    from palaver.cli.typed import entity_of

    schema = await here.schema()
    chosen = [entity_of(schema, entity)] if entity else list(schema.entities.values())
    if here.out.json:
        body = {"name": schema.name, "schema_version": schema.version, "fingerprint": schema.fingerprint}
        here.out.emit("schema", {**body, "entities": [_entity(each) for each in chosen], "searches": schema.snapshot()["searches"]})
        return Exit.OK
    here.out.print(f"schema {schema.name}, version {schema.version}, fingerprint {schema.fingerprint}")
    for declared in chosen:
        _print_entity(here, schema, declared)
    return Exit.OK


def _row(diagnostic: Any) -> dict[str, str]:
    return {name: getattr(diagnostic, name) for name in ("code", "level", "where", "reason", "remedy")}


def _print_check(here: Here, found: list[dict[str, str]], missing: list[str]) -> None:
    if here.out.json:
        here.out.emit("schema_check", {"diagnostics": found, "missing": missing})
        return
    for row in found:
        here.out.print(f"{row['level']}: {row['where']}: {row['reason']}\n  try: {row['remedy']}  [{row['code']}]")
    for step in missing:
        here.out.print(f"missing in the database: {step}")
    if missing:
        here.out.say("`palaver migrate apply` adds it.")
    here.out.say(f"{len(found)} finding{'s' if len(found) != 1 else ''}, {len(missing)} missing in the database")


def _entity(declared: Declared) -> dict[str, Any]:
    return {
        "entity": declared.name,
        "table": declared.table.name,
        "fields": [_field(declared, name) for name in declared.fields],
        "paths": [
            {
                "name": name,
                "physical": path.physical,
                "partition": [part.path for part in path.partition],
                "sort": [part.path for part in path.sort],
                "shards": path.shards,
            }
            for name, path in declared.access.items()
        ],
        "unique": {name: [part.path for part in unique.parts] for name, unique in declared.uniques.items()},
        "references": [{"fields": list(ref.fields), "on_delete": ref.on_delete} for ref in declared.refs],
    }


def _field(declared: Declared, name: str) -> dict[str, Any]:
    spec = declared.fields[name]
    marks = sorted({type(marker).__name__ for marker in spec.markers if type(marker).__module__ == "palaver.markers"} - {"Stored"})
    return {"name": name, "stored": spec.stored, "kind": spec.kind.column, "optional": spec.optional, "marks": marks}


def _print_entity(here: Here, schema: Schema, declared: Declared) -> None:
    out = here.out
    out.print(f"\n{declared.name}  ({declared.table.name})")
    rows = [_field(declared, name) for name in declared.fields]
    out.table(
        ("field", "stored as", "kind", "marks"),
        [(row["name"] + ("?" if row["optional"] else ""), row["stored"], row["kind"], ", ".join(row["marks"])) for row in rows],
    )
    for name, path in declared.access.items():
        sort = f", in order of {', '.join(part.path for part in path.sort)}" if path.sort else ""
        shards = f", {path.shards} shards" if path.shards else ""
        out.print(f"{name}({', '.join(part.path for part in path.partition)}){sort}{shards}")
    for name, unique in declared.uniques.items():
        out.print(f"{name}({', '.join(part.path for part in unique.parts)}) is unique")
    for reference in schema.references:
        if reference.child is declared:
            out.print(f"{', '.join(reference.ref.fields)} → {reference.parent.name} (on delete: {reference.ref.on_delete})")
