"""Every access pattern of a blueprint is one known request on each engine: a module gives the fixture `asked`, and imports the tests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver import Query, Schema, Store
from tests import servers
from tests.stacks import fresh

GOLDEN = {"sqlite": "sqlite.sql", "postgresql": "postgres.sql", "dynamodb": "dynamodb.json"}


@dataclass(frozen=True)
class Asked:
    """The patterns of a schema by name, and the entities whose records are read one by one, by their whole key."""

    schema: Schema
    patterns: Mapping[str, Query[Any]]
    read_whole: frozenset[str]


@pytest.fixture
async def explaining(asked: Asked, stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store whose tables are named as in the design, in an empty database of its own."""
    environ: dict[str, str] = {}
    url = fresh(stack, tmp_path, environ, named_plainly=True)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with palaver.open(url, schema=asked.schema, maintain=False) as store:
        yield store


def shown(request: str) -> str:
    """A request of DynamoDB as one JSON object."""
    operation, _, body = request.partition(" ")
    return json.dumps({operation: json.loads(body)}, indent=1, ensure_ascii=False)


@pytest.mark.parametrize("stack", GOLDEN)
async def test_a_pattern_is_one_request_that_is_known(
    explaining: Store, asked: Asked, stack: str, golden: Callable[[str, str], None]
) -> None:
    for name, query in asked.patterns.items():
        explanation = await explaining.explain(query)
        assert 1 == len(explanation.requests)
        text = shown(explanation.requests[0]) if stack == "dynamodb" else str(explanation)
        golden(f"{asked.schema.name}/{name}.{GOLDEN[stack]}", text + "\n")


async def test_no_pattern_scans_or_sorts_in_sqlite(asked: Asked, tmp_path: Path) -> None:
    async with palaver.open(f"sqlite:///{tmp_path}/a.db", schema=asked.schema, maintain=False) as store:
        requests = {name: (await store.explain(query)).requests[0] for name, query in asked.patterns.items()}
    connection = sqlite3.connect(tmp_path / "a.db")
    for name, text in requests.items():
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", [1] * text.count("?")))
        assert plan.startswith("SEARCH"), (name, plan)
        assert "TEMP B-TREE" not in plan, (name, plan)
    connection.close()


@pytest.mark.parametrize("stack", ["postgresql"])
async def test_no_pattern_need_scan_or_sort_in_postgresql(explaining: Store, asked: Asked, postgres18: servers.Database) -> None:
    """What the planner chooses depends on what is stored; that it has an index in the order asked for does not."""
    [(database,)] = await explaining.core.records.pool.read("SELECT current_database()")  # type: ignore[attr-defined]
    off = "".join(f"SET enable_{way} = off; " for way in ("seqscan", "bitmapscan", "sort"))
    for name, query in asked.patterns.items():
        text = (await explaining.explain(query)).requests[0]
        plan = postgres18.sql(f"{off}EXPLAIN (GENERIC_PLAN, COSTS OFF) {text}", database=database)
        assert "Index Cond" in plan, (name, plan)
        # Parts of a table are merged in the order they are read in, by what the plan calls a sort key.
        nodes = plan.replace("Sort Key", "")
        assert not [bad for bad in ("Seq Scan", "Bitmap", "Sort") if bad in nodes], (name, plan)
        assert "OFFSET" not in text.upper(), name


@pytest.mark.parametrize("stack", ["dynamodb"])
async def test_every_pattern_is_one_query_in_dynamodb(explaining: Store, asked: Asked) -> None:
    for name, query in asked.patterns.items():
        request = (await explaining.explain(query)).requests[0]
        assert request.startswith("Query {"), name
        assert "FilterExpression" not in request, name


def test_every_key_and_index_is_asked_by_a_pattern(asked: Asked) -> None:
    paths = {(query.entity.__name__, query.path.name) for query in asked.patterns.values()}
    declared = {(name, path) for name, found in asked.schema.entities.items() for path in found.access}
    assert {(name, "key") for name in asked.read_whole} == declared - paths
