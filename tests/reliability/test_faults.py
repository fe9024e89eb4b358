"""Every test that the lists of faults and inputs name is there, and asserts something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.reliability.faults import FAULTS
from tests.reliability.inputs import BAD, REAL_INPUT

ROOT = Path(__file__).parent.parent.parent
NAMED = {test for fault in FAULTS for test in fault.tests} | {test for each in (*BAD, *REAL_INPUT) for test in each.tests}


@pytest.mark.parametrize("named", sorted(NAMED), ids=lambda named: named.rpartition("::")[2])
def test_a_test_that_is_named_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [node for node in ast.walk(tree) if isinstance(node, functions) and node.name == name]
    assert [node for node in ast.walk(found) if isinstance(node, ast.Assert | ast.With | ast.AsyncWith)]
