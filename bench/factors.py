"""How many times faster than the libraries a user would pick instead each job must be, from one run with both.

Beside a bare loop it is the median over the rounds of the ratio, as everywhere else; beside a library, the ratio of both medians.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.musts import Rows


class Factor(NamedTuple):
    """`phase` as `who` measured it, in every run whose name begins with `work`, over each of `others` that ran beside it."""

    what: str
    work: str
    phase: str
    who: str
    others: tuple[str, ...]
    must: float


_HISTORIES = ("agents-sqlite", "langgraph-sync", "langchain-sql", "llamaindex-sql", "chainlit-indexed")
_ON_SERVERS = ("langchain-postgres", "agents-sqlalchemy")
_LIMITS = ("limits-aio-redispy",)

FACTORS = (
    Factor("durable pairs, 32 callers", "w1", "append@32", "palaver", _HISTORIES, 5),
    Factor("the last 20 messages", "w1", "read@1", "palaver", _HISTORIES, 2),
    Factor("a traced turn, each record durable, 32 callers", "w6", "turn@32", "palaver-steps", ("chainlit-steps",), 15),
    Factor("durable pairs on PostgreSQL, 32 callers", "w2", "append@32", "palaver-pg", _ON_SERVERS, 4),
    Factor("the same beside a bare loop of one commit each", "w2", "append@32", "palaver-pg", ("raw-asyncpg",), 1.3),
    Factor("a limit over Redis, one rule", "w3", "fixed@32", "palaver-limits", _LIMITS, 2.5),
    Factor("a limit over Redis, three rules", "w3", "three@32", "palaver-limits", _LIMITS, 6),
    Factor("a session over Redis", "w3", "sess_get@32", "palaver-sessions", ("raw-redis-asyncio",), 2.5),
    Factor("a limit in process", "w3", "mem_fixed@1", "palaver-memory", ("limits-memory",), 1),
    Factor("a put in DynamoDB, 32 callers", "w4", "put@32", "palaver-engine", ("aiodynamo",), 2),
    Factor("a get from DynamoDB, 32 callers", "w4", "get@32", "palaver-engine", ("aiodynamo",), 2),
)


def table(rows: Rows) -> list[str]:
    """Return the table of all factors: over the best of the others, each measured together with ours."""
    measured = {(row["run"], row.get("phase"), row["name"]): row for row in rows if "ops_s" in row}
    lines = ["| job | beside | must | measured | |", "|---|---|---:|---:|---|"]
    for factor in FACTORS:
        ours = [row for (run, phase, name), row in measured.items() if (run.partition(" ")[0], phase, name) == factor[1:4]]
        found = [
            (row.get(f"x_{other}") or row["ops_s"] / measured[row["run"], factor.phase, other]["ops_s"], other)
            for row in ours
            for other in factor.others
            if (row["run"], factor.phase, other) in measured
        ]
        value, beside = min(found, default=(None, " or ".join(factor.others)))
        said = "not measured" if value is None else "met" if value >= factor.must else "**missed**"
        lines.append(f"| {factor.what} | {beside} | {factor.must:g}× | {'' if value is None else f'{value:.1f}×'} | {said} |")
    return lines
