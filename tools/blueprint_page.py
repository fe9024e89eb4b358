"""The page of a blueprint: its tables, objects, searches, retention and operations as declared, and every correction."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from pydantic import BaseModel

from palaver.declared import Declared, FieldSpec
from palaver.design import DesignTable
from palaver.lifecycle.retention import retention_plan
from palaver.markers import Blob, Digits, Expires, Instant, Personal, Searchable, Sentinel, Subject
from palaver.query import Query
from palaver.schema import Schema
from tools.answers import Answers, attributes, is_declared
from tools.engines_tested import asked_on

SAMPLES: Mapping[str, Any] = {
    "str": "1",
    "int": 1,
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "AppMode": "production",
    "Purpose": "evaluation",
    "EntityType": "team",
    "Rating": "positive",
}


def page(
    title: str, intro: str, answers: Answers, schema: Schema, patterns: ModuleType, operations: Iterable[tuple[str, type]]
) -> Iterator[str]:
    yield f"# {title}\n"
    yield f"{intro}\n"
    yield "This page is made from the schema, the operations and the answers to the design. Numbers in brackets name the corrections below."
    asked = asked_by(patterns)
    yield "\n## Tables"
    designed = {table.name: table for table in answers.design.tables}
    for declared in schema.entities.values():
        yield from _table(declared, schema, answers, designed.get(declared.table.name), asked)
    if any(declared.blobs for declared in schema.entities.values()):
        yield from _objects(schema, answers)
    yield from _searches(schema, answers)
    yield from _retention(schema, answers)
    if answers.design.flows:
        yield from _rows("Flows", "when", [f"flow:{flow.when}" for flow in answers.design.flows], answers)
    for chapter in answers.design.chapters:
        yield from _rows(chapter.title, chapter.head, [f"{chapter.kind}:{rule.of}" for rule in chapter.rules], answers)
    yield from _operations(operations)
    yield from _patterns(patterns)
    yield from _corrections(answers)


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(
    declared: Declared, schema: Schema, answers: Answers, designed: DesignTable | None, asked: Mapping[Any, list[str]]
) -> Iterator[str]:
    name = declared.table.name
    yield f"\n### {name}\n"
    yield f"`{declared.name}`: {_text(declared.entity)}\n"
    added = " Not in the design." if designed is None else _numbers(answers, name, brackets=True)
    if added.strip():
        yield f"{added.strip()}\n"
    yield "| attribute | type | is | designed as |"
    yield "|---|---|---|---|"
    said = dict(attributes(designed.attributes)) if designed else {}
    for spec in declared.fields.values():
        marks = "; ".join(_marks(spec))
        yield f"| {_named(spec)} | {_cell(_type(spec))} | {_cell(marks)} | {_said(answers, name, spec.stored, said)} |"
    for path, attribute in said.items():
        if path not in declared.by_stored:
            found = _numbers(answers, f"{name}.{path}", brackets=False)
            yield f"| `{path}` | | {'corrected' if found else 'as designed'} | {attribute.type} {found} |"
    yield from _paths(declared, answers, designed, asked)
    for unique in declared.uniques.values():
        yield f"\nUnique: {_parts(unique.parts)}, read by `{declared.name}.{_unique_name(declared, unique)}`."
    for ref in declared.refs:
        yield f"\nBelongs to `{ref.to.__name__}` by {', '.join(f'`{field}`' for field in ref.fields)}; {_GOES[ref.on_delete]}."


_GOES = {"cascade": "goes with it", "keep": "stays when it goes", "restrict": "holds it back from going"}


def _unique_name(declared: Declared, unique: Any) -> str:
    return next(name for name, found in declared.uniques.items() if found is unique)


def _named(spec: FieldSpec) -> str:
    return f"`{spec.stored}`" if spec.stored == spec.name else f"`{spec.stored}`, in Python `{spec.name}`"


def _type(spec: FieldSpec) -> str:
    """Return what a field holds, in words where the annotation would be long."""
    instant: Instant | None = spec.marker(Instant)
    if instant is None and isinstance(spec.annotation, types.UnionType | type(Optional[int])):  # noqa: UP045
        instant = next(
            (each for found in get_args(spec.annotation) for each in getattr(found, "__metadata__", ()) if isinstance(each, Instant)), None
        )
    if instant is not None:
        return f"instant, in {_UNITS[instant.unit]}"
    return "digits, in the order of numbers" if spec.marker(Digits) else _words(spec.annotation)


_UNITS = {"ms": "milliseconds", "s": "seconds", "text": "text"}


def _words(annotation: Any) -> str:
    inner = [each for each in get_args(annotation) if each is not type(None)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inner)
    if origin in (types.UnionType, Union):
        return " or ".join(_words(each) for each in inner)
    if origin is list:
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return f"map of {_words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "map: " + ", ".join(f"`{name}`" for name in annotation.model_fields)
    return "JSON" if annotation is Any or not isinstance(annotation, type) else _PLAIN[annotation]


_PLAIN: Mapping[Any, str] = {str: "text", int: "integer", float: "number", bool: "truth", Decimal: "decimal"}


def _marks(spec: FieldSpec) -> Iterator[str]:
    if spec.marker(Subject):
        yield "whose it is"
    if spec.marker(Personal):
        yield "personal"
    if spec.secret:
        yield "sealed"
    if spec.marker(Searchable):
        yield "searched"
    sentinel, blob, expires = spec.marker(Sentinel), spec.marker(Blob), spec.marker(Expires)
    if sentinel:
        yield f"`{sentinel.value}` stands for none"
    if blob:
        yield f"an object over {blob.inline:,} bytes"
    if expires:
        yield "the expiry"


def _said(answers: Answers, table: str, stored: str, said: Mapping[str, Any]) -> str:
    if stored not in said:
        return "added"
    return f"{said[stored].type} {_numbers(answers, f'{table}.{stored}', brackets=False)}".strip()


def _paths(declared: Declared, answers: Answers, designed: DesignTable | None, asked: Mapping[Any, list[str]]) -> Iterator[str]:
    questions = {index.name: index.question for index in designed.indexes} if designed else {}
    yield "\n| found by | of | in order of | designed for | asked by |"
    yield "|---|---|---|---|---|"
    for name, path in declared.access.items():
        shown = "the key" if path.physical is None else f"`{path.physical}`, {path.shards} shards" if path.shards else f"`{path.physical}`"
        who = ", ".join(f"`{pattern}`" for pattern in asked.get((declared.name, name), ())) or "reads of one record"
        question = questions.get(path.physical or "") or ("; ".join(designed.questions) if designed and path.physical is None else "added")
        numbers = _numbers(answers, f"{declared.table.name}/{path.physical}", brackets=False)
        yield f"| {shown} | {_parts(path.partition)} | {_parts(path.sort)} | {question} {numbers} | {who} |"


def _parts(parts: Iterable[Any]) -> str:
    return ", ".join(f"`{part.path}`" for part in parts)


def asked_by(patterns: ModuleType) -> dict[tuple[str, str], list[str]]:
    """Return which patterns ask which key or index, found by building each of them."""
    out: dict[tuple[str, str], list[str]] = {}
    for name, function in functions(patterns):
        needed = [SAMPLES[each.annotation] for each in inspect.signature(function).parameters.values() if each.default is each.empty]
        query: Query[Any] = function(*needed)
        out.setdefault((query.entity.__name__, query.path.name), []).append(name)
    return out


def functions(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    """Return the patterns of a module: its functions that give a query and are not given one."""
    found = inspect.getmembers(module, inspect.isfunction)
    own = [(name, each) for name, each in found if each.__module__ == module.__name__ and "query" not in inspect.signature(each).parameters]
    return sorted(own, key=lambda pair: pair[1].__code__.co_firstlineno)


# --- objects, searches, retention, flows ------------------------------------------------------------------------------


def _objects(schema: Schema, answers: Answers) -> Iterator[str]:
    yield "\n## Objects\n"
    yield "A value over its size is an object by itself, below a prefix for the person it is about and before a hash of its content.\n"
    yield "| value | path | designed as |"
    yield "|---|---|---|"
    for declared in schema.entities.values():
        for spec in declared.blobs:
            path = spec.marker(Blob).path
            bucket = next(
                (each for each in answers.design.buckets if path.startswith(f"{each.name}/") and _last(path) == _last(each.path)), None
            )
            said = f"`{bucket.name}` {_numbers(answers, f'bucket:{bucket.name}', brackets=False)}" if bucket else "added"
            yield f"| `{declared.name}.{spec.name}` | `{path}` | {said} |"


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _searches(schema: Schema, answers: Answers) -> Iterator[str]:
    yield "\n## Search\n"
    yield "| index | of | searched | narrowed and counted by |"
    yield "|---|---|---|---|"
    for name, search in schema.searches.items():
        for source in search.sources:
            texts, filters = ([f"`{found[0]}`" for found in kind] for kind in (source.text, source.filters))
            numbers = _numbers(answers, f"search:{name}", brackets=False)
            yield f"| `{name}` {numbers} | `{source.declared.name}` | {', '.join(texts)} | {', '.join(filters)} |"


def _retention(schema: Schema, answers: Answers) -> Iterator[str]:
    yield "\n## Retention\n"
    yield "`Retention` changes these" + ("; the defaults are the design's.\n" if answers.design.lifecycle else ".\n")
    yield from (f"- {rule.sentence}" for rule in retention_plan(schema))
    if answers.design.lifecycle:
        yield from _rows(
            "What the design asks for", "what", [f"lifecycle:{rule.of}" for rule in answers.design.lifecycle], answers, level=3
        )


def _rows(title: str, head: str, statements: list[str], answers: Answers, *, level: int = 2) -> Iterator[str]:
    yield f"\n{'#' * level} {title}\n"
    yield f"| {head} | done by | proved by |"
    yield "|---|---|---|"
    says = {f"lifecycle:{rule.of}": f": {rule.says}" for rule in answers.design.lifecycle}
    says |= {f"{chapter.kind}:{rule.of}": f": {rule.says}" for chapter in answers.design.chapters for rule in chapter.rules}
    for statement in statements:
        kept, found = answers.keeps(statement), answers.corrected(statement)
        by = f"{answers.by[statement]}. " if statement in answers.by else ""
        done = kept.by if kept else by + " ".join(f"{correction.does} {_link(number)}" for number, correction in found)
        tests = kept.tests if kept else tuple(test for _, correction in found for test in correction.tests)
        yield f"| {statement.partition(':')[2]}{says.get(statement, '')} | {_cell(done)} | {_tests(tests)} |"


# --- operations -------------------------------------------------------------------------------------------------------


def _operations(operations: Iterable[tuple[str, type]]) -> Iterator[str]:
    yield "\n## Operations"
    for title, cls in operations:
        yield f"\n### {title}\n"
        yield "| method | what it does |"
        yield "|---|---|"
        for name, method in methods(cls):
            yield f"| {_signature(name, method)} | {_cell(_text(method))} |"


def methods(cls: type) -> list[tuple[str, Callable[..., Any]]]:
    """Return the public methods of a class in the order of the source, those of its bases last."""
    out: dict[str, Callable[..., Any]] = {}
    for base in cls.__mro__[:-1]:
        for name, member in vars(base).items():
            if inspect.isfunction(member) and not name.startswith("_") and name not in out:
                out[name] = member
    return list(out.items())


def _patterns(patterns: ModuleType) -> Iterator[str]:
    yield "\n## Access patterns\n"
    blueprint = patterns.__name__.split(".")[-2]
    yield f"Each is a value of `{patterns.__name__}` that a store runs, pages, counts or explains."
    yield f"What SQLite, PostgreSQL and DynamoDB are sent for it is in `tests/golden/{blueprint}`.\n"
    yield "| pattern | what it finds | tested on |"
    yield "|---|---|---|"
    engines = asked_on(blueprint)
    for name, function in functions(patterns):
        yield f"| {_signature(name, function)} | {_cell(_text(function))} | {', '.join(engines[name])} |"


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    text = str(signature.replace(parameters=[each for each in signature.parameters.values() if each.name != "self"]))
    return f"`{name}{text}`".replace("'", "").replace("|", "\\|")


def _text(what: Any) -> str:
    """Return the first sentence line of a docstring, which everything on the page must have."""
    found = inspect.cleandoc(what.__doc__ or "").partition("\n")[0]
    if not found:
        raise SystemExit(f"{what.__qualname__} has no docstring, and its blueprint's page needs one")
    return found


# --- corrections ------------------------------------------------------------------------------------------------------


def _corrections(answers: Answers) -> Iterator[str]:
    yield "\n## Corrections\n"
    yield "What could not stay as designed, what is done instead, why, and the tests that prove it."
    for number, found in enumerate(answers.corrections, 1):
        yield f"\n### Correction {number}\n"
        yield f"Of {', '.join(_statement(of) for of in found.of)}.\n"
        yield f"**The design:** {found.says}\n"
        yield f"**Instead:** {found.does}\n"
        yield f"**Why:** {found.why}\n"
        yield f"**Proved by:** {_tests(found.tests)}"
    yield "\n### Everything else\n"
    yield f"Attributes, keys and indexes without a number are as designed. Proved by {_tests(answers.declared.values())}."


def _statement(of: str) -> str:
    # A key of a cache has colons of its own, and an attribute has none.
    kind, colon, what = of.partition(":")
    return f"{_KINDS.get(kind, f'{kind} ')}`{what}`" if colon else f"`{of}`"


_KINDS = {"search": "search index ", "lifecycle": "lifecycle of "}


def _tests(tests: Iterable[str]) -> str:
    return ", ".join(f"`{node_id(test)}`" for test in tests) or "-"


def node_id(test: str) -> str:
    """Return what a test runner calls a test."""
    file, _, name = test.partition("::")
    return f"tests/{file}.py::test_{name}"


def _numbers(answers: Answers, statement: str, *, brackets: bool) -> str:
    links = " ".join(_link(number) for number, _ in answers.corrected(statement))
    return f"See {links}." if links and brackets else links


def _link(number: int) -> str:
    return f"[({number})](#correction-{number})"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", "\\|", text)


def is_answered(answers: Answers, schema: Schema, statement: str) -> bool:
    """Say whether a statement has its row: corrected, kept, or to be seen in the schema."""
    return bool(answers.corrected(statement)) or answers.keeps(statement) is not None or is_declared(schema, statement)
