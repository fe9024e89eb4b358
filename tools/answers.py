"""What becomes of each statement of a design: the design as written, the schema built from it, and what was corrected."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palaver.declared import Declared
from palaver.design import Attribute, Design
from palaver.schema import Schema

SEEDS = Path(__file__).parent.parent / "tests" / "seeds"


@dataclass(frozen=True)
class Correction:
    """What a design says, what is done instead, why, and the tests that prove it."""

    of: tuple[str, ...]
    says: str
    does: str
    why: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What is done as designed, and by what."""

    of: tuple[str, ...]
    by: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """The answers to one design. `declared` names the tests of what the schema shows by itself, `by` the operations of corrected flows."""

    design: Design
    corrections: tuple[Correction, ...]
    kept: tuple[Kept, ...]
    declared: Mapping[str, str]
    by: Mapping[str, str]

    def corrected(self, statement: str) -> list[tuple[int, Correction]]:
        """Return the corrections of a statement, numbered as on the page."""
        return [(number, found) for number, found in enumerate(self.corrections, 1) if statement in found.of]

    def keeps(self, statement: str) -> Kept | None:
        return next((found for found in self.kept if statement in found.of), None)

    def tests(self) -> Iterator[str]:
        yield from self.declared.values()
        yield from (test for row in self.corrections for test in row.tests)
        yield from (test for row in self.kept for test in row.tests)


def read(name: str) -> Answers:
    """Read a design and its answers by the blueprint's name."""
    raw = tomllib.loads((SEEDS / f"{name}.toml").read_text(encoding="utf-8"))
    return Answers(
        Design.model_validate_json((SEEDS / f"{name}.json").read_text(encoding="utf-8")),
        tuple(Correction(**_frozen(row)) for row in raw["correction"]),
        tuple(Kept(**_frozen(row)) for row in raw["kept"]),
        raw["declared"],
        raw["by"],
    )


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def statements(design: Design) -> Iterator[str]:
    """Yield everything a design says, under the names corrections use."""
    for table in design.tables:
        yield table.name
        yield from (f"{table.name}.{path}" for path, _ in attributes(table.attributes))
        yield from (f"{table.name}/{index.name}" for index in table.indexes)
        yield from (f"question:{question}" for question in table.questions)
    yield from (f"bucket:{bucket.name}" for bucket in design.buckets)
    yield from (f"search:{search.name}" for search in design.searches)
    yield from (f"flow:{flow.when}" for flow in design.flows)
    yield from (f"lifecycle:{rule.of}" for rule in design.lifecycle)
    yield from (f"{chapter.kind}:{rule.of}" for chapter in design.chapters for rule in chapter.rules)


def attributes(given: Mapping[str, Attribute], *above: str) -> Iterator[tuple[str, Attribute]]:
    """Yield attributes and the fields of maps, each with its path."""
    for name, attribute in given.items():
        yield ".".join((*above, name)), attribute
        yield from attributes(attribute.fields, *above, name)


def is_declared(schema: Schema, statement: str) -> bool:
    """Say whether the schema shows by itself that a table, an attribute or an index is there as designed."""
    table, slash, index = statement.partition("/")
    if slash:
        return table in schema.tables and index in {found.name for found in schema.tables[table].table.indexes}
    table, dot, path = statement.partition(".")
    return table in schema.tables and (not dot or holds(schema.tables[table], path))


def holds(declared: Declared, path: str) -> bool:
    """Say whether a table has an attribute, by its stored name, or a field of one of its maps."""
    name, _, inner = path.partition(".")
    spec = declared.by_stored.get(name)
    return spec is not None and (not inner or (spec.kind.model is not None and inner in spec.kind.model.model_fields))
