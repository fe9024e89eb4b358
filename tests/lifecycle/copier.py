"""The process that tests kill: it copies one URL into another until it is done or dead."""

from __future__ import annotations

import asyncio
import sys

from palaver.lifecycle import copy_progress, copy_records
from palaver.lifecycle.copy import Copy
from palaver.lifecycle.copy_ends import End
from tests.lifecycle.app import SCHEMA

# Small steps, each noted: more points at which to die.
setattr(copy_records, "SCAN", 20)  # noqa: B010
setattr(copy_progress, "SAVE_EVERY_S", 0.0)  # noqa: B010


async def main(source: str, target: str) -> None:
    async with End.open(source, SCHEMA, read_only=True) as one, End.open(target, SCHEMA) as other:
        print("ready", flush=True)
        report = await Copy(one, other).run()
        print("resumed" if report.resumed else "begun", "finished" if report.finished else "unfinished", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
