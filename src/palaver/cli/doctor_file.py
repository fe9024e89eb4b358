"""What `palaver doctor` sees of a SQLite file from outside, and of its pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palaver.observing import Finding

ROOM, LOG = 1 << 30, 256 << 20


def on_disk(file: Path) -> Iterator[Finding]:
    """Look at a file without opening it as a database."""
    if not file.exists():
        yield Finding("file", "fail", f"{file} does not exist", "Name another with -u, or run `palaver demo`.")
        return
    if file.is_dir():
        yield Finding("file", "fail", f"{file} is a folder", "Name the file in it.")
        return
    yield Finding("file", "ok", f"{file}, {file.stat().st_size:,} bytes")
    yield from _permissions(file)
    yield from _log(file)
    yield _room(file)


def _permissions(file: Path) -> Iterator[Finding]:
    from palaver.config import beside

    for path, what in ((file, "the file"), (file.parent, "its folder"), (beside(str(file)), "the folder of its objects")):
        if path.exists() and not os.access(path, os.W_OK):
            yield Finding("permissions", "warn", f"{what} cannot be written by this process", f"Allow it: chmod u+w {path}")


def _log(file: Path) -> Iterator[Finding]:
    log = Path(f"{file}-wal")
    pending = log.stat().st_size if log.exists() else 0
    if pending > LOG:
        yield Finding(
            "log", "warn", f"{pending:,} bytes wait in the log", "End readers that stay open for long; the log then empties itself."
        )


def _room(file: Path) -> Finding:
    size, free = file.stat().st_size, shutil.disk_usage(file.parent).free
    if free < max(size // 10, 64 << 20):
        return Finding("disk", "fail", f"{free:,} bytes are free", "Make room; writes fail when nothing is left.")
    if free < max(size, ROOM):
        return Finding("disk", "warn", f"{free:,} bytes are free, less than a copy of the file needs", "Make room, at least for a backup.")
    return Finding("disk", "ok", f"{free:,} bytes are free")


async def integrity(file: Path) -> Finding:
    """Read every page of the file."""
    from palaver.connections.sqlite import Database, SqliteOptions

    database = await Database.open(file, options=SqliteOptions(create=False, read_only=True))
    try:
        found: list[str] = await database.read_pooled(_quick_check)
    finally:
        await database.aclose()
    if found == ["ok"]:
        return Finding("integrity", "ok", "every page of the file is sound")
    return Finding("integrity", "fail", f"{len(found)} damaged places", "Stop writing, keep the file, restore a backup.")


def _quick_check(connection: Any) -> list[str]:
    return [str(row[0]) for row in connection.execute("PRAGMA quick_check").fetchall()]
