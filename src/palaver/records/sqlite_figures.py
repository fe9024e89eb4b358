"""What a SQLite file shows of itself: its pages, its log, and how they are shared among tables and indexes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw

from palaver.connections.sqlite import Database
from palaver.observing import Observed, Size

MOST_PAGES = 131_072
"""Sharing out the pages reads them all: half a gigabyte of them at most."""

# A table's rows are in its leaves; an index, and a table that is one, has entries in every page.
_SHARES = """
SELECT coalesce(m.tbl_name, d.name), d.name, coalesce(m.type, 'table'), sum(d.pgsize),
  sum(CASE WHEN d.pagetype = 'leaf' OR d.pagetype = 'internal' AND (m.type = 'index' OR m.sql LIKE '%WITHOUT ROWID%')
      THEN d.ncell ELSE 0 END)
FROM dbstat d LEFT JOIN sqlite_schema m ON m.name = d.name GROUP BY d.name ORDER BY 4 DESC, 1
"""


async def observe(database: Database) -> Observed:
    """Return the figures of one file."""

    def job(connection: apsw.Connection) -> tuple[dict[str, int], list[Any]]:
        found = {name: int(connection.pragma(name)) for name in ("page_size", "page_count", "freelist_count")}
        rows = connection.execute(_SHARES).fetchall() if found["page_count"] <= MOST_PAGES else []
        return found, rows

    found, rows = await database.read_pooled(job)
    page = found["page_size"]
    file_bytes, log_bytes = await asyncio.to_thread(_sizes, database.path)
    figures: dict[str, int | float | str] = {
        "version": apsw.sqlite_lib_version(),
        "file_bytes": file_bytes,
        "log_bytes": log_bytes,
        "page_bytes": page,
        "pages": found["page_count"],
        "free_bytes": found["freelist_count"] * page,
        "synchronous": database.options.synchronous,
    }
    notes = () if rows else (f"over {MOST_PAGES * page // 2**20:,} MiB tables are not measured one by one: that reads every page",)
    tables = tuple(Size(name, cells, size) for _, name, kind, size, cells in rows if kind == "table")
    indexes = tuple(Size(name, cells, size, of=of) for of, name, kind, size, cells in rows if kind == "index")
    return Observed("sqlite", figures, tables, indexes, notes=notes)


def _sizes(path: Path) -> tuple[int, int]:
    log = Path(f"{path}-wal")
    return path.stat().st_size, log.stat().st_size if log.exists() else 0
