"""A process that watches one flag: it writes a line with the value and the monotonic time whenever what it would serve changes.

Run as `python -m tests.flags.observer URL`; it says `ready` first, and goes on until its input ends.
"""

from __future__ import annotations

import asyncio
import sys
import time

import palaver
from palaver.flags import Flags
from tests.flags.app import FLAGS, LENGTH, SCHEMA, FeatureFlag


async def main(url: str) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    async with palaver.open(url, schema=SCHEMA, maintain=False) as store, Flags.open(store, FLAGS, FeatureFlag) as flags:
        last = flags.value(LENGTH, user="ann")
        print("ready", last, flush=True)
        while not ended.done():
            value = flags.value(LENGTH, user="ann")
            if value != last:
                print(value, time.monotonic(), flush=True)
                last = value
            await asyncio.sleep(0.002)
        print("health", flags.health().status, flags.health().source, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
