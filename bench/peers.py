"""The runs of the comparison harness with Palaver in their rounds: one peer at a time, because many in one process slow each other down."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
SLOW = "w1 fsync 2 ms"
LONGEST_S = 540
_W1 = ["w1_chat_embedded.py", "--adapter", "adapters:ChatEmbedded", "--peers"]
_W1_RAW = "raw-wal-full,raw-group"
_W1_PEERS = ("agents-sqlite", "langgraph-sync", "langchain-sql", "llamaindex-sql", "chainlit-indexed")
_W2 = ["w2_chat_postgres.py", "--adapter", "adapters_postgres:ChatPostgres", "--peers"]
_W2_RAW = "raw-asyncpg,raw-batch"
_W2_PEERS = ("langchain-postgres", "agents-sqlalchemy")
_W3 = ["w3_redis.py", "--n", "2000", "--secs", "2", "--peers"]
_W3_RAW = "raw-autopipeline,raw-redis-asyncio"
_W4 = ["w4_dynamo.py", "--server", "null", "--adapter", "adapters_dynamodb:Engine", "--adapter", "adapters_dynamodb:Returning", "--peers"]
_W6 = ["w6_trace.py", "--adapter", "adapters:TraceTurn", "--adapter", "adapters:TraceSteps", "--peers"]
_W6_RAW = "raw-1-commit,raw-group"
_W7 = ["w7_bulk.py", "--n", "50000", "--peers"]
_SHORT = ["--n", "200", "--secs", "2"]
_READS = ["raw-wal-full", "--phases", "read", "--conc", "1", "--n", "1000"]
# Pairs enough for the log to be copied several times: that takes fsyncs too.
_FSYNCS = ["fsync_count.py", "--peers", "raw-group", "--adapter", "adapters:ChatEmbedded"]


class Run(NamedTuple):
    """`label` names it in the results; rounds where fewer than asked for are enough."""

    label: str
    command: Sequence[str]
    most_rounds: int = 99


RUNS = (
    Run("w1 chat", [*_W1, _W1_RAW, "--n", "1000"]),
    *(Run(f"w1 {peer}", [*_W1, f"{_W1_RAW},{peer}", *_SHORT], 3) for peer in _W1_PEERS),
    Run("w1 store of 100k", [*_W1, *_READS, "--adapter", "adapters:ChatSmall", "--preload", "100000"], 3),
    Run("w1 histories of 1000", [*_W1, *_READS, "--adapter", "adapters:ChatShort", "--per-conv", "1000", "--convs-per-round", "8"], 3),
    Run(SLOW, [*_W1, "raw-group", "--phases", "append"], 3),
    Run("w1 fsyncs @1", [*_FSYNCS, "--n", "3000"], 1),
    Run("w1 fsyncs @32", [*_FSYNCS, "--n", "3000", "--conc", "32"], 1),
    Run("w2 chat", [*_W2, _W2_RAW, "--n", "500"]),
    *(Run(f"w2 {peer}", [*_W2, f"{_W2_RAW},{peer}", *_SHORT], 3) for peer in _W2_PEERS),
    Run("w2 statements", [*_W2, "raw-batch", "--count"], 1),
    Run("w3 cache", [*_W3, _W3_RAW, "--adapter", "adapters_cache:RedisPalaver"]),
    Run("w3 limits", [*_W3, f"{_W3_RAW},limits-aio-redispy", "--adapter", "adapters_cache:RedisLimits"]),
    Run("w3 sessions", [*_W3, _W3_RAW, "--adapter", "adapters_cache:RedisSessions", "--adapter", "adapters_cache:RecordedSessions"]),
    Run("w3 in process", [*_W3, "raw-dict,limits-memory", "--adapter", "adapters_cache:MemoryPalaver"]),
    Run("w4 engine", [*_W4, "raw-http"]),
    Run("w4 aiodynamo", [*_W4, "raw-http,aiodynamo"], 3),
    Run("w6 turns", [*_W6, _W6_RAW, "--n", "150"]),
    Run("w6 chainlit-steps", [*_W6, f"{_W6_RAW},chainlit-steps", "--n", "60"], 3),
    Run("w7 sqlite", [*_W7, "raw-sqlite-executemany,agents-sqlite", "--adapter", "adapters:ChatEmbedded"], 3),
    Run("w7 pg", [*_W7, "raw-pg-copy,langchain-postgres", "--engine", "pg", "--adapter", "adapters_postgres:ChatPostgres"], 3),
)


def chosen(only: Sequence[str]) -> list[Run]:
    """Return the runs whose label is, or begins with, one of these words, or all."""
    return [run for run in RUNS if not only or any(run.label == word or run.label.startswith(f"{word} ") for word in only)]


def measured(runs: Sequence[Run], folder: Path, python: str, work: str | None, rounds: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run each and give its rows; one that fails is told on the standard error, and gives none."""
    paths = [folder, ROOT / "bench", ROOT / "src", ROOT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    for run in runs:
        command = [python, *run.command, "--rounds", str(min(rounds, run.most_rounds)), *(["--dir", work] if work else [])]
        around = environment | _slow_fsync(folder) if run.label == SLOW else environment
        try:
            done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False, timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            print(f"{run.label}: not done in {LONGEST_S} s", file=sys.stderr)
            continue
        about = {"run": run.label, "date": datetime.date.today().isoformat()}
        rows = [about | json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        print(f"{run.label}: {len(rows)} rows", file=sys.stderr)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        elif rows:
            yield run.label, rows


def _slow_fsync(folder: Path) -> dict[str, str]:
    """Compile the library that makes every fsync take 2 ms, as a disk in a network does, and say how it is loaded."""
    made = Path(tempfile.gettempdir()) / "slow_fsync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(folder / "slow_fsync.c"), "-ldl"], check=True)
    return {"SLOW_FSYNC_US": "2000", "LD_PRELOAD": str(made)}
