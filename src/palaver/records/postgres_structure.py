"""The structure of a PostgreSQL schema: made from declarations step by step, and read back from the server's catalogues.

What SQL types cannot say (that a text is a key's shadow, the whole of a name that was shortened, which part of the key
partitions) stands in comments of the tables, columns and indexes, so that the database describes itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from palaver.connections.postgres import Connection, Pool
from palaver.connections.postgres_errors import translate
from palaver.connections.postgres_isolation import protect, refuse_hidden, without_policy
from palaver.errors import NotProvisioned
from palaver.ops import (
    AddColumn,
    AlterColumn,
    Belt,
    Column,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropIndex,
    DropTable,
    IndexSpec,
    Physical,
    Ranges,
    RenameColumn,
    RenameTable,
    SetExpiry,
    Step,
    Table,
    after_step,
)
from palaver.records import postgres_partitions as partitions, sql
from palaver.records.postgres_names import Names, identifier, kinds, short
from palaver.stored_json import dumps, loads

OURS = "palaver_"
_LOCK = 0x70616C_61766572
_LONG_S = 7 * 86_400.0
_TABLES = """
SELECT c.oid, c.relname, obj_description(c.oid, 'pg_class') AS about FROM pg_class c
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname
"""
_COLUMNS = """
SELECT a.attrelid, a.attname, a.attnotnull, col_description(a.attrelid, a.attnum) AS about FROM pg_attribute a
WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""
_INDEXES = """
SELECT i.indrelid, obj_description(i.indexrelid, 'pg_class') AS about, i.indisunique FROM pg_index i
WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid ORDER BY i.indrelid, i.indexrelid
"""
_BELTS = """
SELECT k.conrelid, k.confrelid, p.relname, k.oid,
  (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY u(at, n)
   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.at) AS columns,
  (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.confkey) WITH ORDINALITY u(at, n)
   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.at) AS targets
FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND k.conrelid = ANY($1::oid[]) ORDER BY k.conrelid, k.oid
"""
_CHECKS = """
SELECT k.conname FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]
WHERE k.contype = 'c' AND k.conrelid = $1::regclass AND a.attname = $2
"""


def system(names: Names) -> str:
    """Return the statements that make the tables every schema of ours has."""
    return f"""
CREATE SCHEMA IF NOT EXISTS {identifier(names.schema)};
CREATE TABLE IF NOT EXISTS {names.changes} (
  position bigint PRIMARY KEY, revision bigint NOT NULL, entity integer NOT NULL, kind smallint NOT NULL,
  key text[] COLLATE "C" NOT NULL, more jsonb
);
CREATE TABLE IF NOT EXISTS {names.names} (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, kinds text NOT NULL
);
CREATE SEQUENCE IF NOT EXISTS {names.positions};
CREATE TABLE IF NOT EXISTS {names.meta} (name text COLLATE "C" PRIMARY KEY, value text NOT NULL);
COMMENT ON COLUMN {names.changes}.position IS 'of palaver_positions; read only what no running transaction may still come before';
COMMENT ON COLUMN {names.changes}.kind IS '0 created, 1 updated, 2 deleted, 3 expired';
COMMENT ON COLUMN {names.changes}.more IS 'actor, token, released blobs';
"""


# --- changing -------------------------------------------------------------------------------------------------------


async def apply(pool: Pool, names: Names, step: Step, tenants: Mapping[str, str]) -> Table | None:
    """Take one step and return the table as it is after it, None where it is gone; a step taken before is no error.

    `tenants`: which column says whose a row is, by table, for row-level security where it is on.
    """
    if not isinstance(step, CreateIndex):
        async with pool.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({_LOCK})", timeout=_LONG_S)
            after = await _in_one_commit(connection, names, step, tenants)
            await protect(connection, identifier(names.schema), tenants, begin=pool.options.rls)
            return after
    connection = await pool.connect()
    try:
        if not pool.pooled:
            await connection.execute("SET statement_timeout = 0")
        return await _index(connection, names, step)
    except BaseException as error:
        raise translate(error, sent=True) from None
    finally:
        connection.terminate()


async def _in_one_commit(connection: Connection, names: Names, step: Step, tenants: Mapping[str, str]) -> Table | None:
    await _ensure_system(connection, names)
    name = step.old if isinstance(step, RenameTable) else step.table.name
    before = (await _described(connection, names)).get(name)
    if isinstance(step, CreateTable):
        if before is None:
            await _run(connection, create(step.table, names))
        await _name(connection, names, step.table)
        return before or step.table
    if before is None:
        if isinstance(step, RenameTable | DropTable):
            return (await _described(connection, names)).get(step.table.name)
        raise NotProvisioned(f"There is no table {name}.", table=name)
    after = after_step(before, step)
    if isinstance(step, AlterColumn):
        if tenants.get(short(before.name)) == short(step.column.name):
            await connection.execute(without_policy(names.within(before.name)))
        await _drop_checks(connection, names, before, step.column.name)
    await _run(connection, statements(before, after, step, names))
    if isinstance(step, RenameTable):
        await connection.execute(f"DELETE FROM {names.names} WHERE name = $1 AND name <> $2", after.name, name)
        await connection.execute(f"UPDATE {names.names} SET name = $1 WHERE name = $2", after.name, name)
    return None if isinstance(step, DropTable) else after


async def _ensure_system(connection: Connection, names: Names) -> None:
    # Asking first: whoever may only look must not need the right to create.
    if await connection.fetchval("SELECT to_regclass($1)", names.meta) is None:
        await connection.execute(system(names))


async def _index(connection: Connection, names: Names, step: CreateIndex) -> Table:
    """Make an index while others write, which the server does outside a transaction; what a broken try left goes first."""
    before = (await _described(connection, names)).get(step.table.name)
    if before is None:
        raise NotProvisioned(f"There is no table {step.table.name}.", table=step.table.name)
    after = after_step(before, step)
    if after != before:
        name = sql.index_name(after, step.index.name)
        await connection.execute(f"DROP INDEX IF EXISTS {names.within(name)}", timeout=_LONG_S)
        text = sql.create_index(after, step.index, names.dialect)
        if after.ranges is None:
            await connection.execute(text.replace(" INDEX IF NOT EXISTS ", " INDEX CONCURRENTLY ", 1), timeout=_LONG_S)
        else:
            await partitions.create_index(connection, names, after, name, text, timeout=_LONG_S)
        await connection.execute(_about_index(after, step.index, names))
    return after


async def _run(connection: Connection, texts: Iterable[str]) -> None:
    if text := ";\n".join(texts):
        await connection.execute(text, timeout=_LONG_S)


async def _name(connection: Connection, names: Names, table: Table) -> None:
    """Give the table the small number that stands for it in the feed."""
    kind = kinds(table)
    text = f"INSERT INTO {names.names} (name, kinds) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
    await connection.execute(text, table.name, ",".join(kind[name] for name in table.key))


async def _drop_checks(connection: Connection, names: Names, table: Table, column: str) -> None:
    for (name,) in await connection.fetch(_CHECKS, names.within(table.name), short(column)):
        await connection.execute(f"ALTER TABLE {names.within(table.name)} DROP CONSTRAINT {identifier(name)}")


def create(table: Table, names: Names) -> list[str]:
    """Return the statements that make a table, its indexes, and the comments it is read back from."""
    texts = [sql.create_table(table, names.dialect) + partitions.options(table, names)]
    if table.ranges is not None:
        texts.append(partitions.rest(table, names))
    texts += [sql.create_index(table, index, names.dialect) for index in table.indexes]
    if table.expires is not None:
        texts.append(sql.create_expiry(table, names.dialect))
    texts += [_about_column(table, column, names) for column in table.columns]
    texts += [_about_index(table, index, names) for index in table.indexes]
    return [*texts, _about_table(table, names)]


def texts(before: Table | None, step: Step, names: Names) -> list[str]:
    """Return one step as a script says it: for the table it is about as it is, None where it is not there."""
    if isinstance(step, CreateTable):
        made = create(step.table, names) if before is None else []
        kind = kinds(step.table)
        values = f"{_literal(step.table.name)}, {_literal(','.join(kind[name] for name in step.table.key))}"
        return [*made, f"INSERT INTO {names.names} (name, kinds) VALUES ({values}) ON CONFLICT (name) DO NOTHING"]
    if before is None:
        return []
    after = after_step(before, step)
    if isinstance(step, CreateIndex):
        if after == before:
            return []
        drop = f"DROP INDEX IF EXISTS {names.within(sql.index_name(after, step.index.name))}"
        return [drop, sql.create_index(after, step.index, names.dialect), _about_index(after, step.index, names)]
    out = statements(before, after, step, names)
    if isinstance(step, AlterColumn) and after != before:
        # What the server calls the check of a column by itself.
        check = identifier(f"{short(before.name)}_{short(step.column.name)}_check")
        out = [f"ALTER TABLE {names.within(before.name)} DROP CONSTRAINT IF EXISTS {check}", *out]
    if isinstance(step, RenameTable):
        old, new = _literal(step.old), _literal(after.name)
        out = [
            *out,
            f"DELETE FROM {names.names} WHERE name = {new} AND name <> {old}",
            f"UPDATE {names.names} SET name = {new} WHERE name = {old}",
        ]
    return out


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def statements(before: Table, after: Table, step: Step, names: Names) -> list[str]:
    """Return the statements of one step for a table as it is; nothing where the step was taken before."""
    dialect = names.dialect
    if isinstance(step, DropTable):
        return [sql.drop_table(before, dialect)]
    if after == before:
        return []
    match step:
        case AddColumn(_, column):
            return [sql.add_column(after, column, dialect), *_required(after, column, names), _about_column(after, column, names)]
        case DropIndex(_, name):
            return [sql.drop_index(before, name, dialect)]
        case RenameColumn(_, old, new):
            column = next(column for column in after.columns if column.name == new)
            return [sql.rename_column(before, old, new, dialect), _about_column(after, column, names), *_abouts(after, names)]
        case AlterColumn(_, column):
            return [*_altered(after, column, names), _about_column(after, column, names)]
        case DropColumn(_, name):
            return [sql.drop_column(before, name, dialect), _about_table(after, names)]
        case SetExpiry():
            made = [sql.create_expiry(after, dialect)] if after.expires else []
            return [sql.drop_expiry(before, dialect), *made, _about_table(after, names)]
        case RenameTable():
            return _renamed(before, after, names)
    return []


def _required(table: Table, column: Column, names: Names) -> list[str]:
    if not sql.is_always_there(table, column):
        return []
    return [f"ALTER TABLE {names.within(table.name)} ALTER COLUMN {identifier(column.name)} SET NOT NULL"]


def _altered(table: Table, column: Column, names: Names) -> list[str]:
    alter = f"ALTER TABLE {names.within(table.name)}"
    name, kind = identifier(column.name), names.dialect.types[column.kind]
    texts = [f"{alter} ALTER COLUMN {name} TYPE {kind} USING {name}::{kind.partition(' COLLATE')[0]}"]
    texts.append(f"{alter} ALTER COLUMN {name} {'SET' if sql.is_always_there(table, column) else 'DROP'} NOT NULL")
    definition = sql.column_definition(column, names.dialect, required=False)
    check = definition.partition(" CHECK ")[2]
    return [*texts, f"{alter} ADD CHECK {check}"] if check else texts


def _renamed(before: Table, after: Table, names: Names) -> list[str]:
    """Rename a table and what is named after it."""
    texts: list[str] = []
    if before.name != after.name:
        texts.append(sql.rename_table(before, after.name, names.dialect))
        pairs = [(sql.index_name(before, index.name), sql.index_name(after, index.name)) for index in before.indexes]
        if before.expires is not None:
            pairs.append((sql.expiry_name(before), sql.expiry_name(after)))
        texts += [f"ALTER INDEX {names.within(old)} RENAME TO {identifier(new)}" for old, new in pairs]
    return [*texts, _about_table(after, names)]


# --- what the types cannot say --------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return "'" + dumps(value).replace("'", "''") + "'"  # type: ignore[arg-type]


def _about_table(table: Table, names: Names) -> str:
    about: dict[str, Any] = {
        "palaver": table.name,
        "entity": table.entity,
        "partition": list(table.partition),
        "sort": list(table.sort),
        "expires": table.expires,
        "feed": table.feed,
    }
    if table.ranges is not None:
        about["ranges"] = asdict(table.ranges)
    return f"COMMENT ON TABLE {names.within(table.name)} IS {_text(about)}"


def _about_column(table: Table, column: Column, names: Names) -> str:
    about: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.shadow:
        about["shadow"] = True
    if column.check:
        about["check"] = [list(part) if isinstance(part, tuple) else part for part in column.check]
    return f"COMMENT ON COLUMN {names.within(table.name)}.{identifier(column.name)} IS {_text(about)}"


def _about_index(table: Table, index: IndexSpec, names: Names) -> str:
    about = {"name": index.name, "partition": list(index.partition), "sort": list(index.sort)}
    return f"COMMENT ON INDEX {names.within(sql.index_name(table, index.name))} IS {_text(about)}"


def _abouts(table: Table, names: Names) -> list[str]:
    return [_about_table(table, names), *(_about_index(table, index, names) for index in table.indexes)]


# --- reading back ---------------------------------------------------------------------------------------------------


async def describe(pool: Pool, names: Names) -> Physical:
    """Return the tables this library made, the names of all others, and the stamp."""
    async with pool.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
        await refuse_hidden(connection, identifier(names.schema))
        tables = await _described(connection, names)
        found = await connection.fetch(_TABLES, identifier(names.schema))
        unknown = [name for _, name, about in found if _about(about) is None and not name.startswith(OURS)]
        stamp: dict[str, str] = {}
        if await connection.fetchval("SELECT to_regclass($1)", names.meta) is not None:
            stamp = dict(await connection.fetch(f"SELECT name, value FROM {names.meta}"))
    ordered = tuple(sorted(tables.values(), key=lambda table: table.name))
    return Physical(ordered, tuple(sorted(unknown)), int(stamp.get("version", 0)), stamp.get("fingerprint", ""))


async def stamp(pool: Pool, names: Names, version: int, fingerprint: str) -> None:
    """Note which declaration the schema was made for."""
    async with pool.transaction() as connection:
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        await _ensure_system(connection, names)
        text = f"INSERT INTO {names.meta} VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        await connection.execute(text, "version", str(version))
        await connection.execute(text, "fingerprint", fingerprint)


async def _described(connection: Connection, names: Names) -> dict[str, Table]:
    found = {oid: about for oid, _, text in await connection.fetch(_TABLES, identifier(names.schema)) if (about := _about(text))}
    oids = list(found)
    columns: dict[int, list[Column]] = {oid: [] for oid in oids}
    full: dict[int, dict[str, str]] = {oid: {} for oid in oids}
    for oid, name, required, text in await connection.fetch(_COLUMNS, oids):
        if text is not None:
            about = loads(text)
            full[oid][name] = about["name"]
            columns[oid].append(_column(about, required))
    indexes: dict[int, list[IndexSpec]] = {oid: [] for oid in oids}
    for oid, text, unique in await connection.fetch(_INDEXES, oids):
        if text is not None:
            about = loads(text)
            indexes[oid].append(IndexSpec(about["name"], tuple(about["partition"]), tuple(about["sort"]), unique))
    belts: dict[int, list[Belt]] = {oid: [] for oid in oids}
    for oid, parent, _, _, own, targets in await connection.fetch(_BELTS, oids):
        if parent in found:
            of, to = full[oid], full[parent]
            belts[oid].append(Belt(tuple(of[name] for name in own), found[parent]["palaver"], tuple(to[name] for name in targets)))
    return {
        about["palaver"]: Table(
            about["palaver"],
            about["entity"],
            tuple(columns[oid]),
            tuple(about["partition"]),
            tuple(about["sort"]),
            tuple(indexes[oid]),
            about["expires"],
            about["feed"],
            tuple(belts[oid]),
            ranges=Ranges(**about["ranges"]) if about.get("ranges") else None,
        )
        for oid, about in found.items()
    }


def _about(text: str | None) -> dict[str, Any] | None:
    """Return what a comment of ours says; None for a comment of anybody else."""
    if text is None or not text.startswith("{"):
        return None
    try:
        about = loads(text)
    except json.JSONDecodeError:
        return None
    return about if isinstance(about, dict) and "palaver" in about else None


def _column(about: dict[str, Any], required: bool) -> Column:
    check = tuple(tuple(part) if isinstance(part, list) else part for part in about.get("check", ()))
    return Column(about["name"], about["kind"], required, about.get("shadow", False), check)
