"""Which engines the tests of access patterns run on, read from the tests themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
NAMES = {"memory": "memory", "sqlite": "SQLite", "postgresql": "PostgreSQL", "dynamodb": "DynamoDB"}
GOLDEN = {"sqlite": "sqlite.sql", "postgresql": "postgres.sql", "dynamodb": "dynamodb.json"}
SOURCE = TESTS.parent / "src" / "palaver" / "blueprints"
# Fixtures that open a store on each stack in turn.
OPENED = frozenset({"agent", "baller", "opened", "store", "stack", "world"})


def stacks() -> list[str]:
    """Return the stacks that everything above the ports is tested on."""
    for node in ast.parse((TESTS / "stacks.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NAMES":
            return [NAMES[name] for name in ast.literal_eval(node.value)]
    raise SystemExit("tests/stacks.py names no stacks")


def asked_on(blueprint: str) -> dict[str, list[str]]:
    """Return by pattern the engines its results are tested on; raises SystemExit where a request is not pinned."""
    folder = TESTS / "blueprints" / blueprint
    pinned = dict(_pinned(_parsed(folder / "test_patterns.py")))
    used_by = {
        function.name: set(_patterns(function))
        for file in (SOURCE / blueprint).glob("*.py")
        for function in ast.walk(_parsed(file))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found: set[str] = set()
    for file in folder.glob("test_*.py"):
        for test in ast.walk(_parsed(file)):
            if isinstance(test, ast.AsyncFunctionDef) and OPENED & {argument.arg for argument in test.args.args}:
                called = {each.attr for each in ast.walk(test) if isinstance(each, ast.Attribute)}
                found |= set(_patterns(test)).union(*(used_by.get(name, ()) for name in called))
    for name, golden in pinned.items():
        if missing := [end for end in GOLDEN.values() if not (TESTS / "golden" / blueprint / f"{golden}.{end}").exists()]:
            raise SystemExit(f"pattern {name} has no golden file for {', '.join(missing)}; run: make golden")
    everywhere = stacks()
    return {name: everywhere if name in found else [NAMES[stack] for stack in GOLDEN] for name in pinned}


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _patterns(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "patterns":
            yield node.attr


def _pinned(tree: ast.Module) -> Iterable[tuple[str, str]]:
    """Yield pattern and golden file of each entry of PATTERNS."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and ast.unparse(node.target) == "PATTERNS":
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                assert isinstance(value, ast.Call)
                assert isinstance(value.func, ast.Attribute)
                yield value.func.attr, str(key.value)
