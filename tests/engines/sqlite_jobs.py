"""Jobs for the writer of a SQLite file with one table, and what they left there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from palaver.connections.sqlite import Database, SqliteOptions

INSERT = "INSERT INTO t VALUES (?, ?)"


def insert(number: int, text: str = "x") -> Callable[[apsw.Connection], int]:
    def job(connection: apsw.Connection) -> int:
        connection.execute(INSERT, (number, text))
        return number

    return job


def rows(connection: apsw.Connection) -> list[Any]:
    return [number for (number,) in connection.execute("SELECT a FROM t ORDER BY a").fetchall()]


async def made(path: Path, **options: Any) -> Database:
    database = await Database.open(path, options=SqliteOptions(**options))
    await database.write(lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT) STRICT"))
    return database
