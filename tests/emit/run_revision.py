"""Alembic on SQLite files, in a process of its own: `run_revision.py FILE forth|back` with a revision on stdin, or two files to compare."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from sqlalchemy import MetaData, create_engine

from tests.emit.test_statements import differences, upgraded


def main(file: str, what: str) -> None:
    with create_engine(f"sqlite:///{file}").begin() as connection:
        if what in ("forth", "back"):
            with tempfile.TemporaryDirectory() as folder:
                upgraded(connection, sys.stdin.read(), Path(folder), back=what == "back")
            return
        metadata = MetaData()
        metadata.reflect(connection)
    with create_engine(f"sqlite:///{what}").connect() as connection:
        sys.stdout.write(json.dumps([repr(each) for each in differences(connection, metadata)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
