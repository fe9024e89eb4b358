"""What each row of the comparison must reach, and what it aims at: ratios to a raw loop of the same durability, of the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Rows = Sequence[dict[str, Any]]


class Must(NamedTuple):
    """`phase` of `run` as `who` measured it: `figure` is a column of its rows, at least `must`; at most where `lower`.

    `per` is who measured, in the same rounds, the figure it is divided by. `aim` is what a thin layer should reach.
    """

    run: str
    phase: str
    who: str
    figure: str
    must: float
    aim: float
    lower: bool = False
    per: str = ""
    words: str = ""

    @property
    def name(self) -> str:
        return self.words or f"{self.run} `{self.phase}`"


_GROUP, _WAL, _PIPE, _ALONE = "x_raw-group", "x_raw-wal-full", "x_raw-autopipeline", "x_raw-redis-asyncio"
_BATCH, _PG, _HTTP, _DICT = "x_raw-batch", "x_raw-asyncpg", "x_raw-http", "x_raw-dict"
_LOAD = "load"


def _grown(run: str, per: str, words: str) -> Must:
    """Return the row that says how much slower a read becomes as the store or a history grows."""
    return Must(run, "read@1", "palaver", "p50_us", 1.3, 1.1, lower=True, per=per, words=words)


MUSTS = (
    Must("w1 chat", "append@1", "palaver", _WAL, 0.45, 0.60),
    Must("w1 chat", "append@32", "palaver", _GROUP, 0.40, 0.65),
    Must("w1 fsync 2 ms", "append@32", "palaver", _GROUP, 0.60, 0.85),
    Must("w1 chat", "read@1", "palaver", _WAL, 0.50, 0.75),
    Must("w1 chat", "turn@32", "palaver", _GROUP, 0.45, 0.65),
    Must("w1 chat", "turn@32", "palaver", "p99_us", 15_000, 8_000, lower=True, words="w1 `turn@32`, p99 in µs"),
    _grown("w1 store of 100k", "palaver-small", "w1 `read@1`, p50 at 100,000 over 20,000"),
    _grown("w1 histories of 1000", "palaver-short", "w1 `read@1`, p50 of 1,000 over 50"),
    Must("w1 chat", "append@32", "palaver", "disk_bytes_per_msg", 1_100, 900, lower=True, words="w1 bytes on disk per message"),
    Must("w1 fsyncs @1", _LOAD, "palaver", "fsyncs_per_pair", 1.0, 1.0, lower=True, words="w1 fsyncs per pair, 1 caller"),
    Must("w1 fsyncs @32", _LOAD, "palaver", "fsyncs_per_pair", 0.10, 0.05, lower=True, words="w1 fsyncs per pair, 32 callers"),
    Must("w2 chat", "append@1", "palaver-pg", _PG, 0.60, 0.80),
    Must("w2 chat", "append@32", "palaver-pg", _BATCH, 0.35, 0.60),
    Must("w2 chat", "read@1", "palaver-pg", _PG, 0.50, 0.75),
    Must("w2 chat", "turn@32", "palaver-pg", _BATCH, 0.40, 0.65),
    Must("w2 statements", _LOAD, "palaver-pg", "statements_per_pair", 3, 1, lower=True, words="w2 statements per pair"),
    Must("w2 statements", _LOAD, "palaver-pg", "statements_per_read", 1, 1, lower=True, words="w2 statements per read"),
    Must("w3 limits", "fixed@32", "palaver-limits", _PIPE, 0.45, 0.60),
    Must("w3 limits", "sliding@32", "palaver-limits", _PIPE, 0.45, 0.60),
    Must("w3 limits", "three@32", "palaver-limits", _PIPE, 0.45, 0.60),
    Must("w3 cache", "sess_set@32", "palaver-redis", _PIPE, 0.30, 0.55),
    Must("w3 sessions", "sess_get@32", "palaver-sessions", _PIPE, 0.45, 0.55),
    Must("w3 sessions", "sess_get@32", "palaver-sessions-recorded", _PIPE, 0.45, 0.55, words="w3 sessions `sess_get@32`, with records"),
    Must("w3 limits", "fixed@1", "palaver-limits", _ALONE, 1.05, 1.3),
    Must("w3 limits", "sliding@1", "palaver-limits", _ALONE, 1.05, 1.3),
    Must("w3 cache", "sess_set@1", "palaver-redis", _ALONE, 1.05, 1.3),
    Must("w3 sessions", "sess_get@1", "palaver-sessions", _ALONE, 1.05, 1.3),
    Must("w3 in process", "mem_fixed@1", "palaver-memory", _DICT, 0.35, 0.50),
    Must("w3 in process", "mem_sliding@1", "palaver-memory", _DICT, 0.35, 0.50),
    Must("w4 engine", "put@1", "palaver-engine", _HTTP, 0.50, 0.70),
    Must("w4 engine", "get@1", "palaver-engine", _HTTP, 0.50, 0.70),
    Must("w4 engine", "put@32", "palaver-engine", _HTTP, 0.50, 0.60),
    Must("w4 engine", "get@32", "palaver-engine", _HTTP, 0.50, 0.60),
    Must("w4 engine", "query@1", "palaver-engine", _HTTP, 0.65, 0.85),
    Must("w4 engine", "batch@1", "palaver-engine", _HTTP, 0.50, 0.75),
    Must("w4 engine", "transact@1", "palaver-engine", _HTTP, 0.45, 0.70),
    Must("w4 engine", "transact@1", "palaver-engine-returning", _HTTP, 0.45, 0.70, words="w4 `transact@1`, returning"),
    Must("w6 turns", "turn@1", "palaver-turn", "x_raw-1-commit", 0.50, 0.75),
    Must("w6 turns", "turn@32", "palaver-steps", _GROUP, 0.45, 0.70),
    Must("w6 turns", "read@1", "palaver-turn", "x_raw-1-commit", 0.40, 0.70),
    Must("w7 sqlite", _LOAD, "palaver", "x_raw-sqlite-executemany", 0.45, 0.65),
    Must("w7 pg", _LOAD, "palaver-pg", "x_raw-pg-copy", 0.50, 0.75),
)


def table(rows: Rows) -> list[str]:
    """Return the table of all musts: what was measured, what the best peer measured beside us reaches, and whether it is enough."""
    lines = ["| row | must | aim | measured | best peer | | date |", "|---|---:|---:|---:|---|---|---|"]
    for must in MUSTS:
        found = _found(rows, must.run, must.phase, must.who, must.figure)
        value = None if found is None else found[must.figure]
        if value is not None and must.per:
            base = _found(rows, must.run, must.phase, must.per, must.figure)
            value = None if base is None else value / base[must.figure]
        sign = "≤ " if must.lower else ""
        said = "not measured" if value is None else "met" if _is_met(must, value) else "**missed**"
        date = "" if found is None else found.get("date", "")
        cells = [must.name, f"{sign}{_shown(must.must)}", f"{sign}{_shown(must.aim)}", "" if value is None else _shown(value)]
        lines.append(f"| {' | '.join([*cells, _best_peer(rows, must), said, date])} |")
    return lines


def _is_met(must: Must, value: float) -> bool:
    if must.figure.startswith("statements_"):
        # A call takes a whole number of statements; hundredths are what the process asks for by itself meanwhile.
        value = round(value, 1)
    return value <= must.must if must.lower else value >= must.must


def _found(rows: Rows, run: str, phase: str, who: str, figure: str) -> dict[str, Any] | None:
    return next(
        (row for row in rows if (row["run"], row.get("phase", _LOAD), row.get("name")) == (run, phase, who) and figure in row), None
    )


def _best_peer(rows: Rows, must: Must) -> str:
    """Return the best of the libraries that were measured for the same work, by the same figure."""
    work = must.run.partition(" ")[0]
    if must.lower or must.run == "w1 fsync 2 ms":
        return ""
    others = [
        (row[must.figure], row["name"])
        for row in rows
        if row["run"].partition(" ")[0] == work
        and row.get("phase", _LOAD) == must.phase
        and must.figure in row
        and not row["name"].startswith(("raw-", "palaver", "redis-benchmark"))
    ]
    return f"{max(others)[1]} {_shown(max(others)[0])}" if others else ""


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
