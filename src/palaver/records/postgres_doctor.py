"""What can be wrong with a PostgreSQL server, database or schema, and how to mend it: one function for each check."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from palaver.connections.postgres import Pool
from palaver.errors import PalaverError
from palaver.observing import Finding
from palaver.records.postgres_names import Names, short
from palaver.records.postgres_partitions import months
from palaver.records.postgres_row_security import row_security

SKEW_S = 2.0
HELD_S = 60
SLOT_BYTES = 1 << 30
OLD_AGE = 1_500_000_000
WANTED = {"vector": "vectors", "pg_trgm": "similar words"}

_TABLES = """
SELECT c.relname, bool_and(has_table_privilege(c.oid, p.name)) AS every,
  array_agg(p.name ORDER BY p.name) FILTER (WHERE NOT has_table_privilege(c.oid, p.name)) AS lacking
FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p(name)
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND obj_description(c.oid, 'pg_class') IS NOT NULL GROUP BY c.relname
HAVING NOT bool_and(has_table_privilege(c.oid, p.name)) ORDER BY c.relname
"""
_COLLATIONS = """
SELECT count(*) FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY(i.indkey) JOIN pg_collation c ON c.oid = a.attcollation
WHERE t.relnamespace = to_regnamespace($1) AND obj_description(t.oid, 'pg_class') IS NOT NULL AND c.collname NOT IN ('C', 'POSIX')
"""
_INVALID = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace($1) AND NOT i.indisvalid ORDER BY c.relname
"""
# Only who has written something holds back what others may read of the feed.
_HOLDING = """
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::int AS age, coalesce(state, '') AS state, application_name
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1
"""
_PREPARED = "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::int AS age FROM pg_prepared_xacts ORDER BY prepared LIMIT 1"
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
  count(*) FILTER (WHERE backend_type = 'client backend') AS used,
  count(*) FILTER (WHERE application_name = 'palaver') AS ours FROM pg_stat_activity
"""
_SLOTS = """
SELECT slot_name, active, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS behind
FROM pg_replication_slots ORDER BY behind DESC
"""
_PARTS = """
SELECT c.relname, array_agg(p.relname::text) FROM pg_class c JOIN pg_inherits i ON i.inhparent = c.oid JOIN pg_class p ON p.oid = i.inhrelid
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'p' AND obj_description(c.oid, 'pg_class') LIKE '{%"palaver":%'
GROUP BY c.relname ORDER BY c.relname
"""
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')"


class Doctor:
    """Looks at one schema of one database through the engine's own pool."""

    def __init__(self, pool: Pool, names: Names, tenants: Mapping[str, str]) -> None:
        self._pool, self._names, self._tenants = pool, names, tenants

    async def diagnose(self) -> list[Finding]:
        checks: Sequence[tuple[str, Callable[[], Awaitable[Finding]]]] = (
            ("server", self._server),
            ("encryption of the connection", self._tls),
            ("encoding", self._encoding),
            ("rights", self._rights),
            ("row-level security", lambda: row_security(self._pool, _quoted(self._names.schema), self._tenants)),
            ("collation", self._collation),
            ("indexes", self._indexes),
            ("parts", self._parts),
            ("extensions", self._extensions),
            ("connections", self._connections),
            ("durability", self._durability),
            ("feed", self._fence),
            ("positions", self._positions),
            ("replication", self._slots),
            ("age", self._age),
            ("server clock", self._clock),
            ("size", self._size),
        )
        return [await self._seen(name, check) for name, check in checks]

    async def _seen(self, name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
        try:
            return await check()
        except PalaverError as error:
            return Finding(
                name, "warn", f"this could not be looked at: {error.message}", error.hint or "Grant the user pg_monitor to see it."
            )

    async def _row(self, text: str, *arguments: Any) -> Any:
        rows = await self._pool.read(text, *arguments)
        return rows[0] if rows else None

    # --- the server -------------------------------------------------------------------------------------------------

    async def _server(self) -> Finding:
        version, standby = await self._row("SELECT current_setting('server_version'), pg_is_in_recovery()")
        through = ", behind a transaction pooler: followers of the feed ask instead of being told" if self._pool.pooled else ""
        if standby:
            return Finding("server", "fail", f"PostgreSQL {version}, a standby that takes no writes", "Name the primary in the URL.")
        if self._pool.version < 150_000:
            return Finding("server", "fail", f"PostgreSQL {version}", "Update the server to 15 or newer.")
        return Finding("server", "ok", f"PostgreSQL {version}{through}")

    async def _tls(self) -> Finding:
        encrypted, local = await self._row(
            "SELECT (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),"
            " inet_server_addr() IS NULL OR inet_client_addr() = inet_server_addr() OR host(inet_server_addr()) IN ('127.0.0.1', '::1')"
        )
        if encrypted or local:
            return Finding("encryption of the connection", "ok", "TLS" if encrypted else "on this machine")
        return Finding("encryption of the connection", "warn", "the connection is not encrypted", "Add ?sslmode=verify-full to the URL.")

    async def _encoding(self) -> Finding:
        (encoding,) = await self._row("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")
        if encoding != "UTF8":
            return Finding("encoding", "fail", f"the database is encoded as {encoding}", "Create it anew with ENCODING 'UTF8', and copy.")
        return Finding("encoding", "ok", "UTF8")

    async def _parts(self) -> Finding:
        """Look for months that no part was made for, and for what stands in the rest meanwhile."""
        found = [(table, set(parts)) for table, parts in await self._pool.read(_PARTS, self._names.prefix.removesuffix("."))]
        if not found:
            return Finding("parts", "ok", "no table is kept in parts")
        missing: list[str] = []
        for month in months(int(time.time() * 1_000_000), 1):
            missing += [f"{table} {month:%Y-%m}" for table, parts in found if short(f"{table}::{month:%Y-%m}") not in parts]
        if missing:
            remedy = "Run `palaver work` or `palaver sweep`, which make them and move what is in the rest."
            return Finding("parts", "warn", f"there is no part for {', '.join(missing)}: it goes into the rest", remedy)
        return Finding("parts", "ok", f"{len(found)} tables are kept in {sum(len(parts) for _, parts in found)} parts")

    async def _durability(self) -> Finding:
        settings = dict(tuple(row) for row in await self._pool.read(_SETTINGS))
        for name, loses in (("fsync", "everything"), ("full_page_writes", "pages that were half written")):
            if settings.get(name) == "off":
                return Finding("durability", "fail", f"{name} is off: a power cut may lose {loses}", f"Set {name} = on.")
        if settings.get("synchronous_commit") == "off":
            return Finding(
                "durability",
                "warn",
                "synchronous_commit is off: a power cut loses what was acknowledged last",
                "Set synchronous_commit = on.",
            )
        return Finding("durability", "ok", f"fsync on, synchronous_commit {settings.get('synchronous_commit')}")

    async def _connections(self) -> Finding:
        most, used, ours = await self._row(_CONNECTIONS)
        size = self._pool.options.size
        text = f"{used} of {most} in use, {ours} of them by Palaver; a process takes up to {size}"
        if self._pool.pooled:
            return Finding("connections", "ok", f"{text}, through a pooler")
        room = (most - used) // size
        if room < 1:
            return Finding(
                "connections", "warn", f"{text}: no room for one more process", "Lower `pool` in the URL, or raise max_connections."
            )
        return Finding("connections", "ok", f"{text}: room for {room} more")

    async def _extensions(self) -> Finding:
        rows = await self._pool.read(
            "SELECT name, default_version, installed_version FROM pg_available_extensions WHERE name = ANY($1)", list(WANTED)
        )
        found = {name: f"{name} {installed or available}{'' if installed else ' can be installed'}" for name, available, installed in rows}
        parts = [found.get(name, f"no {name} ({what})") for name, what in WANTED.items()]
        return Finding("extensions", "ok", f"{', '.join(parts)}; none is required")

    async def _clock(self) -> Finding:
        before = time.time()
        (theirs,) = await self._row("SELECT extract(epoch FROM clock_timestamp())::float8")
        ahead = float(theirs) - (before + time.time()) / 2
        if abs(ahead) > SKEW_S:
            return Finding("server clock", "warn", f"it is {ahead:+,.1f} s from this machine's", "Have both kept by NTP.")
        return Finding("server clock", "ok", "it agrees with this machine's")

    async def _slots(self) -> Finding:
        rows = await self._pool.read(_SLOTS)
        late = next((row for row in rows if row[2] > SLOT_BYTES), None)
        if late is not None:
            return Finding(
                "replication",
                "warn",
                f"slot {late[0]} holds {late[2]:,} bytes of log{'' if late[1] else ', and nobody reads it'}",
                "Bring its reader back, or drop it: SELECT pg_drop_replication_slot('…').",
            )
        return Finding("replication", "ok", f"{len(rows)} slots, none far behind")

    async def _age(self) -> Finding:
        (age,) = await self._row("SELECT age(datfrozenxid)::bigint FROM pg_database WHERE datname = current_database()")
        if age > OLD_AGE:
            return Finding("age", "fail", f"{age:,} transactions since the last freeze", "Run VACUUM FREEZE before it stops at 2 billion.")
        return Finding("age", "ok", f"{age:,} transactions since the last freeze")

    async def _size(self) -> Finding:
        (size,) = await self._row("SELECT pg_database_size(current_database())")
        return Finding("size", "ok", f"{size:,} bytes; how much is free can only be seen on the server")

    # --- the schema -------------------------------------------------------------------------------------------------

    async def _rights(self) -> Finding:
        schema = self._names.schema
        there, usage, create = await self._row(
            "SELECT to_regnamespace($1) IS NOT NULL, coalesce(has_schema_privilege(to_regnamespace($1), 'USAGE'), false),"
            " coalesce(has_schema_privilege(to_regnamespace($1), 'CREATE'), has_database_privilege(current_database(), 'CREATE'))",
            _quoted(schema),
        )
        if there and not usage:
            return Finding(
                "rights", "fail", f"no right to use the schema {schema}", f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO the user."
            )
        lacking = await self._pool.read(_TABLES, _quoted(schema))
        if lacking:
            name, _, rights = lacking[0]
            return Finding(
                "rights",
                "fail",
                f"{len(lacking)} tables are closed to this user: {name} lacks {', '.join(rights)}",
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {_quoted(schema)} TO the user.",
            )
        if not create:
            return Finding("rights", "warn", "reading and writing, but no right to create: migrations need another user", "")
        return Finding("rights", "ok", "reading, writing and creating")

    async def _collation(self) -> Finding:
        (strange,) = await self._row(_COLLATIONS, _quoted(self._names.schema))
        if strange:
            return Finding(
                "collation",
                "fail",
                f"{strange} indexed columns are not in byte order: pages come in another order than positions",
                'ALTER TABLE … ALTER COLUMN … TYPE text COLLATE "C", then REINDEX.',
            )
        return Finding("collation", "ok", "keys and indexes are in byte order")

    async def _indexes(self) -> Finding:
        rows = await self._pool.read(_INVALID, _quoted(self._names.schema))
        if rows:
            return Finding(
                "indexes", "fail", f"{len(rows)} are not usable: {rows[0][0]} was not built to its end", "Run `palaver migrate apply`."
            )
        return Finding("indexes", "ok", "each is usable")

    async def _fence(self) -> Finding:
        """Readers of the feed see what is below every transaction that has written and still runs, of all databases."""
        oldest, prepared = await self._row(_HOLDING), await self._row(_PREPARED)
        if prepared is not None and prepared[1] > HELD_S:
            return Finding(
                "feed",
                "warn",
                f"a prepared transaction holds the feed back since {prepared[1]:,} s",
                "End it: SELECT gid FROM pg_prepared_xacts, then COMMIT PREPARED or ROLLBACK PREPARED.",
            )
        if oldest is not None and oldest[1] is not None and oldest[1] > HELD_S:
            return Finding(
                "feed",
                "warn",
                f"a transaction ({oldest[2]}, process {oldest[0]}) holds the feed back since {oldest[1]:,} s",
                f"End it: SELECT pg_terminate_backend({oldest[0]}).",
            )
        return Finding("feed", "ok", "no transaction holds it back")

    async def _positions(self) -> Finding:
        """New changes must come after all that are there, also after a dump was restored."""
        if not (await self._row("SELECT to_regclass($1) IS NOT NULL", self._names.changes))[0]:
            return Finding("positions", "ok", "no feed yet")
        head, last = await self._row(
            f"SELECT greatest((SELECT max(position) FROM {self._names.changes}),"
            f" (SELECT max(value::bigint) FROM {self._names.meta} WHERE name = 'trimmed'), 0),"
            f" (SELECT last_value FROM {self._names.positions})"
        )
        if head > last:
            return Finding(
                "positions",
                "fail",
                "new changes would stand before old ones",
                f"Move the sequence on: SELECT setval('{_literal(self._names.positions)}', {head}).",
            )
        return Finding("positions", "ok", f"{head:,} is the last, later ones stand after it")


def _quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return text.replace("'", "''")
