"""A blueprint's page answers everything its design says, and names only tests that exist."""

from __future__ import annotations

import ast
from functools import lru_cache

from palaver.blueprints.baller import SCHEMA, patterns
from tests.stacks import NAMES
from tools import answers, blueprint_page, engines_tested, reference

BALLER = answers.read("baller")
PAGE = (reference.DOCS / "blueprints" / "baller.md").read_text(encoding="utf-8")


@lru_cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((reference.ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_statement_of_the_design_has_its_row() -> None:
    statements = list(answers.statements(BALLER.design))

    assert 150 < len(statements)
    assert [] == [each for each in statements if not blueprint_page.is_answered(BALLER, SCHEMA, each)]


def test_every_statement_is_on_the_page() -> None:
    for table in BALLER.design.tables:
        section = PAGE.partition(f"\n### {table.name}\n")[2].partition("\n### ")[0]
        assert [] == [path for path, _ in answers.attributes(table.attributes) if f"| `{path}`" not in section]
        assert [] == [index.name for index in table.indexes if f"| `{index.name}`" not in section]
        assert [] == [question for question in table.questions if question not in section]
    others = (each.partition(":")[2] for each in answers.statements(BALLER.design))
    assert [] == [each for each in others if each not in PAGE]


def test_no_correction_is_of_something_the_design_does_not_say() -> None:
    said = set(answers.statements(BALLER.design))

    assert set() == {each for row in BALLER.corrections for each in row.of} - said
    assert set() == {each for row in BALLER.kept for each in row.of} - said
    assert set() == set(BALLER.by) - said


def test_nothing_is_both_corrected_and_as_designed() -> None:
    assert [] == [each for row in BALLER.kept for each in row.of if BALLER.corrected(each)]


def test_every_correction_names_a_test() -> None:
    assert [] == [row.says for row in BALLER.corrections if not row.tests]


def test_every_test_named_exists() -> None:
    named = [blueprint_page.node_id(test).partition("::") for test in BALLER.tests()]

    assert [] == [f"{file}::{name}" for file, _, name in named if name not in functions_of(file)]


def test_every_pattern_and_every_index_is_on_the_page() -> None:
    names = [name for name, _ in blueprint_page.functions(patterns)]

    assert 30 == len(names)
    assert [] == [name for name in names if f"| `{name}(" not in PAGE]
    for declared in SCHEMA.entities.values():
        assert [] == [index.name for index in declared.table.indexes if f"`{index.name}`" not in PAGE]


def test_every_pattern_says_on_which_engines_it_is_tested() -> None:
    tested = engines_tested.asked_on("baller")

    assert set(tested) == {name for name, _ in blueprint_page.functions(patterns)}
    assert list(NAMES) == [name for name in engines_tested.NAMES if engines_tested.NAMES[name] in engines_tested.stacks()]
    assert [] == [name for name, engines in tested.items() if engines != engines_tested.stacks()]
