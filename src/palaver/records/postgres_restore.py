"""Taking in what another database has: records with the revisions they carry, and the changes of its feed at their positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from palaver.connections.postgres import Pool
from palaver.connections.postgres_errors import translate
from palaver.ops import REVISION, Change, position
from palaver.records.postgres_feed import Feed, key_text, more
from palaver.records.postgres_names import Names, short
from palaver.records.postgres_rows import Row, Rows
from palaver.stored_json import dumps, loads
from palaver.values import KeyPart, Record

AT_ONCE = 1_000
# Below this a transaction of its own costs more than COPY saves.
FEW = 20
Key = tuple[KeyPart, ...]
_KINDS = ("created", "updated", "deleted", "expired")


class Restoring:
    """Writes that leave no change, and changes that no write here left."""

    def __init__(self, pool: Pool, feed: Feed, names: Names, rows: Callable[[str], Rows]) -> None:
        self._pool, self._feed, self._names, self._rows = pool, feed, names, rows

    async def restore(self, table: str, records: Sequence[Record], gone: Sequence[Key], over: bool) -> list[Key]:
        rows = self._rows(table)
        stayed: list[Key] = []
        for start in range(0, len(records), AT_ONCE):
            stayed += await self._store(rows, records[start : start + AT_ONCE], over)
        for start in range(0, len(gone), AT_ONCE):
            arrays = [list(column) for column in zip(*gone[start : start + AT_ONCE], strict=True)]
            await self._pool.fetch(_removal(rows), *arrays)
        return stayed

    async def _store(self, rows: Rows, records: Sequence[Record], over: bool) -> list[Key]:
        made = [rows.encode(record, record[REVISION]) for record in records]  # type: ignore[arg-type]
        if over and len(made) >= FEW and await self._copied(rows, made):
            return []
        found = await self._pool.fetch(_upsert(rows, over), *(list(column) for column in zip(*made, strict=True)))
        if over or len(found) == len(records):
            return []
        stored = {tuple(row) for row in found}
        keys = [position(rows.table, None, record) for record in records]
        return [key for key in keys if key not in stored]

    async def _copied(self, rows: Rows, made: Sequence[Row]) -> bool:
        """Store records that are all new; False, and nothing stored, where one is there already."""
        try:
            async with self._pool.transaction(raw=True) as connection:
                await connection.copy_records_to_table(
                    short(rows.name), schema_name=rows.names.schema, columns=list(map(short, rows.stored)), records=made
                )
        except asyncpg.UniqueViolationError:
            return False
        except asyncpg.PostgresError as error:
            raise translate(error) from None
        return True

    async def continue_feed(self, changes: Sequence[Change], last: int, gap: bool) -> None:
        """Append in one commit, then move on what is added to positions, so that every later write stands above."""
        names = self._names
        packed = dumps([_packed(change) for change in changes])
        async with self._pool.transaction() as connection:
            # One at a time: which changes are there already must not move while others are appended.
            await connection.execute(f"LOCK TABLE {names.meta} IN SHARE ROW EXCLUSIVE MODE")
            head = await connection.fetchval(
                f"SELECT greatest((SELECT max(position) FROM {names.changes}),"
                f" (SELECT max(value::bigint) FROM {names.meta} WHERE name = 'trimmed'), 0)"
            )
            if gap and last >= head:
                await connection.execute(f"DELETE FROM {names.changes}")
                await connection.execute(_begin(names), str(last))
            await connection.execute(_append(names), packed, head)
        await self._feed.pass_by(max([last, *(change.position for change in changes[-1:])]))


def _upsert(rows: Rows, over: bool) -> str:
    """Parameters: an array for each stored column. Gives the keys that were stored."""
    quote, key = rows.names.dialect.quoted, rows.table.key
    sets = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in rows.stored if name not in key)
    newer = "" if over else f" WHERE excluded.{quote(REVISION)} >= t.{quote(REVISION)}"
    keys = rows.names.dialect.commas(key)
    return (
        f"INSERT INTO {rows.at} AS t ({rows.columns}) SELECT * FROM {rows.arrays(rows.stored, 1)}"
        f" ON CONFLICT ({keys}) DO UPDATE SET {sets}{newer} RETURNING {', '.join('t.' + quote(name) for name in key)}"
    )


def _removal(rows: Rows) -> str:
    """Parameters: an array for each key column."""
    quote, key = rows.names.dialect.quoted, rows.table.key
    on = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)
    return f"DELETE FROM {rows.at} AS t USING {rows.arrays(key, 1)} AS s({rows.names.dialect.commas(key)}) WHERE {on}"


def _append(names: Names) -> str:
    """Parameters: changes as JSON, and the head."""
    return (
        f"INSERT INTO {names.changes} (position, revision, entity, kind, key, more) SELECT (e->>0)::bigint, (e->>1)::bigint, n.id,"
        " (e->>3)::smallint, ARRAY(SELECT k.part FROM jsonb_array_elements_text(e->4) WITH ORDINALITY AS k(part, n) ORDER BY k.n),"
        " nullif(e->5, 'null'::jsonb)"
        f" FROM jsonb_array_elements($1::jsonb) AS e JOIN {names.names} n ON n.name = e->>2 WHERE (e->>0)::bigint > $2"
    )


def _begin(names: Names) -> str:
    return f"INSERT INTO {names.meta} VALUES ('trimmed', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


def _packed(change: Change) -> Any:
    kept = more(change.cause, change.released)
    about = None if kept is None else loads(kept)
    return [change.position, change.revision, change.table, _KINDS.index(change.kind), list(map(key_text, change.key)), about]
