"""What PostgreSQL counts of itself: connections, sizes, index scans, slow statements.

Tables and indexes are found by their numbers in the catalog, never by their names as text: a name in quotes, or one that is also
in another schema, is then no special case.
"""

from __future__ import annotations

from typing import Any

from palaver.connections.postgres import Pool
from palaver.errors import PalaverError
from palaver.observing import Observed, Size, Slow

_DATABASE = """
SELECT pg_database_size(d.oid) AS size_bytes, s.xact_commit AS commits, s.xact_rollback AS rollbacks, s.deadlocks,
  s.temp_bytes, coalesce(s.blks_hit::float8 / nullif(s.blks_hit + s.blks_read, 0), 1) AS pages_from_memory_share
FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = current_database()
"""
# Without pg_read_all_stats the state of other users' sessions is null.
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections_most,
  count(*) AS connections,
  count(*) FILTER (WHERE application_name = 'palaver') AS connections_of_palaver,
  count(*) FILTER (WHERE state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock') AS connections_active,
  count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'Lock') AS connections_waiting,
  count(*) FILTER (WHERE state = 'idle') AS connections_idle,
  count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS connections_idle_in_transaction,
  count(*) FILTER (WHERE state IS NULL) AS connections_not_shown
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""
# A partitioned table is itself empty: the figures of its parts are its own.
_TABLES = """
SELECT t.relname, sum(CASE WHEN part.relkind = 'p' THEN 0 WHEN s.n_live_tup > 0 OR part.reltuples < 0 THEN s.n_live_tup
    ELSE part.reltuples::bigint END)::bigint,
  sum(CASE WHEN part.relkind = 'p' THEN 0 ELSE pg_total_relation_size(part.oid) END)::bigint,
  sum(coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0))::bigint
FROM pg_class t JOIN LATERAL (SELECT relid FROM pg_partition_tree(t.oid) WHERE t.relkind = 'p' UNION SELECT t.oid) tree ON true
JOIN pg_class part ON part.oid = tree.relid LEFT JOIN pg_stat_all_tables s ON s.relid = part.oid
WHERE t.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND t.relkind IN ('r', 'p', 'm') AND NOT t.relispartition
GROUP BY t.oid, t.relname ORDER BY 3 DESC, 1
"""
_INDEXES = """
SELECT i.relname, t.relname, sum(CASE WHEN part.relkind = 'I' THEN 0 ELSE pg_relation_size(part.oid) END)::bigint,
  sum(coalesce(s.idx_scan, 0))::bigint
FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
JOIN LATERAL (SELECT relid FROM pg_partition_tree(i.oid) WHERE i.relkind = 'I' UNION SELECT i.oid) tree ON true
JOIN pg_class part ON part.oid = tree.relid LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = part.oid
WHERE i.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND NOT i.relispartition
GROUP BY i.oid, i.relname, t.relname ORDER BY 3 DESC, 1
"""
_STATEMENTS_IN = "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1"
# Only of these four kinds is it certain that constants were replaced: what sets a password is written out as it came.
_SLOW = """
SELECT regexp_replace(query, '\\s+', ' ', 'g'), calls, mean_exec_time, total_exec_time FROM {0}.pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND query ~* '^\\s*(select|insert|update|delete|with|merge)\\M'
ORDER BY total_exec_time DESC LIMIT 10
"""
_LONGEST = 300


async def observe(pool: Pool, schema: str) -> Observed:
    """Return the figures of one schema, its database and its server."""
    notes: list[str] = []
    figures: dict[str, Any] = {**pool.figures()}
    for text in (_CONNECTIONS, _DATABASE):
        figures |= dict((await pool.read(text))[0])
    hidden = figures.pop("connections_not_shown")
    if hidden:
        notes.append(f"what {hidden} connections of other users do is not shown: grant pg_read_all_stats to this user")
    tables = tuple(Size(name, rows, size, reads) for name, rows, size, reads in await pool.read(_TABLES, schema))
    indexes = tuple(Size(name, None, size, reads, of) for name, of, size, reads in await pool.read(_INDEXES, schema))
    return Observed("postgresql", figures, tables, indexes, await _slow(pool, notes), tuple(notes))


async def _slow(pool: Pool, notes: list[str]) -> tuple[Slow, ...]:
    where = await pool.read(_STATEMENTS_IN, "pg_stat_statements")
    if not where:
        notes.append("slow statements are not counted: CREATE EXTENSION pg_stat_statements")
        return ()
    try:
        rows = await pool.read(_SLOW.format(where[0][0]))
    except PalaverError:
        # It can be created without the library that counts, and be closed to this user.
        notes.append("slow statements cannot be read: add pg_stat_statements to shared_preload_libraries, and grant pg_read_all_stats")
        return ()
    return tuple(Slow(text[:_LONGEST], calls, round(mean, 3), round(total, 3)) for text, calls, mean, total in rows)
