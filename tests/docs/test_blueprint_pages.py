"""A blueprint's page answers everything its design says, and names only tests that exist."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import pytest

from palaver.blueprints import BLUEPRINTS, load
from palaver.schema import Schema
from tests.stacks import NAMES
from tools import answers, blueprint_page, engines_tested, reference

AT_LEAST = {"baller": (150, 30), "simple_agent": (120, 35)}
"""Statements of the design and patterns, so that none gets lost with the file that names it."""


@dataclass(frozen=True)
class Built:
    """A blueprint with its design, the answers to it, and its page."""

    name: str
    schema: Schema
    patterns: ModuleType
    answers: answers.Answers
    page: str


@pytest.fixture(params=BLUEPRINTS)
def built(request: pytest.FixtureRequest) -> Built:
    name = str(request.param)
    page = (reference.DOCS / "blueprints" / f"{name}.md").read_text(encoding="utf-8")
    return Built(name, load(name).SCHEMA, import_module(f"palaver.blueprints.{name}.patterns"), answers.read(name), page)


@lru_cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((reference.ROOT / file).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    # What blueprints share stands once and is imported by each; importing what is not there fails the file.
    taken = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    return frozenset(defined | taken)


def test_every_statement_of_the_design_has_its_row(built: Built) -> None:
    statements = list(answers.statements(built.answers.design))

    assert AT_LEAST[built.name][0] < len(statements)
    assert [] == [each for each in statements if not blueprint_page.is_answered(built.answers, built.schema, each)]


def test_every_statement_is_on_the_page(built: Built) -> None:
    for table in built.answers.design.tables:
        section = built.page.partition(f"\n### {table.name}\n")[2].partition("\n### ")[0]
        assert [] == [path for path, _ in answers.attributes(table.attributes) if f"| `{path}`" not in section]
        answered = [index.name for index in table.indexes if built.answers.corrected(f"{table.name}/{index.name}")]
        assert [] == [index.name for index in table.indexes if index.name not in answered and f"| `{index.name}`" not in section]
        assert [] == [question for question in table.questions if question not in section]
    others = (each.partition(":")[2] for each in answers.statements(built.answers.design))
    assert [] == [each for each in others if each not in built.page]


def test_no_correction_is_of_something_the_design_does_not_say(built: Built) -> None:
    said = set(answers.statements(built.answers.design))

    assert set() == {each for row in built.answers.corrections for each in row.of} - said
    assert set() == {each for row in built.answers.kept for each in row.of} - said
    assert set() == set(built.answers.by) - said


def test_nothing_is_both_corrected_and_as_designed(built: Built) -> None:
    assert [] == [each for row in built.answers.kept for each in row.of if built.answers.corrected(each)]


def test_every_correction_names_a_test(built: Built) -> None:
    assert [] == [row.says for row in built.answers.corrections if not row.tests]


def test_every_test_named_exists(built: Built) -> None:
    named = [blueprint_page.node_id(test).partition("::") for test in built.answers.tests()]

    assert [] == [f"{file}::{name}" for file, _, name in named if name not in functions_of(file)]


def test_every_pattern_and_every_index_is_on_the_page(built: Built) -> None:
    names = [name for name, _ in blueprint_page.functions(built.patterns)]

    assert AT_LEAST[built.name][1] <= len(names)
    assert [] == [name for name in names if f"| `{name}(" not in built.page]
    for declared in built.schema.entities.values():
        assert [] == [index.name for index in declared.table.indexes if f"`{index.name}`" not in built.page]


def test_every_pattern_says_on_which_engines_it_is_tested(built: Built) -> None:
    tested = engines_tested.asked_on(built.name)

    assert set(tested) == {name for name, _ in blueprint_page.functions(built.patterns)}
    assert list(NAMES) == [name for name in engines_tested.NAMES if engines_tested.NAMES[name] in engines_tested.stacks()]
    assert [] == [name for name, engines in tested.items() if engines != engines_tested.stacks()]
