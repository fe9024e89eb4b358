"""What every search index checks before it is asked, so that all refuse the same with the same words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeAlias, get_args

from palaver.errors import ConfigError, NotProvisioned, Validation
from palaver.ports import FilterOp, SearchDoc, SearchFilter, SearchQuery, SearchSpec
from palaver.search.text import Term, parse
from palaver.values import MAX_INT, MIN_INT, Scalar, text_size

Kind: TypeAlias = Literal["text", "int", "float", "bool"]
Stored: TypeAlias = "str | int | float"

# A change of how text becomes tokens makes every index new: it is part of their names.
TOKENS_VERSION = 1
MAX_VALUES = 1_000
MAX_FACET_VALUES = 1_000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Wanted(NamedTuple):
    """A filter with its values as they are stored; more than one for "in" only."""

    field: str
    op: FilterOp
    values: tuple[Stored, ...]


class Asked(NamedTuple):
    """A query that was checked against its index."""

    terms: tuple[Term, ...]
    without: tuple[Term, ...]
    filters: tuple[Wanted, ...]


def version_of(spec: SearchSpec) -> str:
    return f"{spec.fingerprint}.{TOKENS_VERSION}"


def dumps(spec: SearchSpec) -> str:
    """Return a declaration as an engine keeps it with the index."""
    return json.dumps({"name": spec.name, "text": spec.text, "filters": dict(spec.filters), "required": spec.required})


def loads(stored: str) -> SearchSpec:
    spec = json.loads(stored)
    return SearchSpec(spec["name"], tuple(spec["text"]), spec["filters"], required=tuple(spec["required"]))


def key_of(field: str, value: Stored) -> str:
    """Return the token that stands for a filter's value among the words of a document."""
    return blake2b(repr((field, value)).encode(), digest_size=8).hexdigest()


def check_spec(spec: SearchSpec) -> None:
    """Raise ConfigError for an index that cannot be built where there are no vectors."""
    if not _NAME.fullmatch(spec.name):
        raise ConfigError("A search index is named with up to 100 ASCII letters, digits, `_`, `-` and `.`.")
    if spec.vectors:
        raise ConfigError(f"Index {spec.name}: vectors are not available on this engine.")
    if not spec.text or len({*spec.text, *spec.filters}) < len(spec.text) + len(spec.filters):
        raise ConfigError(f"Index {spec.name} needs a text field, and a different name for every field.")
    if unknown := [field for field in spec.required if field not in spec.filters]:
        raise ConfigError(f"Index {spec.name} requires {', '.join(unknown)}, which it cannot filter by.")


def filters_of(spec: SearchSpec, doc: SearchDoc) -> dict[str, tuple[Stored, ...]]:
    """Return the filter values of a document by field, several for a list, as they are stored; Validation for a wrong one."""
    text_size(doc.id, f"An id in index {spec.name}")
    if not doc.id or not MIN_INT <= doc.revision <= MAX_INT:
        raise Validation(f"A document of index {spec.name} needs an id and a 64-bit revision.")
    if unknown := [field for field in doc.text if field not in spec.text]:
        raise Validation(f"Index {spec.name} has no text field {', '.join(unknown)}.")
    return {field: tuple(dict.fromkeys(_all_stored(spec, field, _listed(value)))) for field, value in doc.filters.items()}


def asked(spec: SearchSpec, query: SearchQuery) -> Asked:
    """Return a query with its text and filters made ready; raises Validation, and ConfigError for a vector."""
    if query.vector is not None:
        raise ConfigError(f"Index {spec.name}: vectors are not available on this engine.")
    if query.limit < 0 or query.offset < 0:
        raise Validation("A search has a limit and an offset of 0 or more.")
    for field in (*query.facets, *filter(None, [query.newest_first])):
        _kind(spec, field)
    filters = tuple(_wanted(spec, one) for one in query.filters)
    # A range of tenants would be a search through all of them.
    given = {one.field for one in filters if one.op in ("==", "in")}
    if missing := [field for field in spec.required if field not in given]:
        raise Validation(f"A search of index {spec.name} must filter by {', '.join(missing)}.", hint='Give it with "==" or "in".')
    terms = parse(query.text)
    return Asked(tuple(term for term in terms if not term.without), tuple(term for term in terms if term.without), filters)


def unknown_index() -> NotProvisioned:
    return NotProvisioned("There is no such search index.", hint="Run `palaver migrate apply`, or open the store with its schema.")


def facet(kind: str, counts: Iterable[tuple[Stored, int]]) -> dict[Scalar, int]:
    """Return counts by value, the most frequent first, 1,000 values at most."""
    total: dict[Stored, int] = {}
    for value, count in counts:
        total[value] = total.get(value, 0) + count
    most = sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_FACET_VALUES]
    return {bool(value) if kind == "bool" else value: count for value, count in most}


def _wanted(spec: SearchSpec, one: SearchFilter) -> Wanted:
    if one.op not in get_args(FilterOp):
        raise Validation(f"Index {spec.name} has no such filter operator.", hint=f"Use one of {' '.join(get_args(FilterOp))}.")
    values = _listed(one.value)
    if one.op == "in":
        if len(values) > MAX_VALUES:
            raise Validation(f'A search of index {spec.name} has over {MAX_VALUES:,} values after "in".')
    elif values is one.value:
        raise Validation(f'Only "in" takes several values; index {spec.name}, field {one.field}.')
    return Wanted(one.field, one.op, tuple(_all_stored(spec, one.field, values)))


def _listed(value: Scalar | Sequence[Scalar]) -> Collection[Scalar]:
    return value if isinstance(value, Collection) and not isinstance(value, str | bytes) else (value,)


def _kind(spec: SearchSpec, field: str) -> Kind:
    if field not in spec.filters:
        raise Validation(f"Index {spec.name} has no filter field {field}.", hint=f"It has {', '.join(spec.filters) or 'none'}.")
    return spec.filters[field]


def _all_stored(spec: SearchSpec, field: str, values: Iterable[Scalar]) -> list[Stored]:
    kind = _kind(spec, field)
    return [_stored(value, kind, f"Index {spec.name}, field {field}") for value in values]


def _stored(value: Scalar, kind: Kind, what: str) -> Stored:
    match kind, value:
        case "text", str():
            text_size(value, what)
            return value
        case "bool", bool():
            return int(value)
        case "int", int() if not isinstance(value, bool) and MIN_INT <= value <= MAX_INT:
            return value
        case "float", int() | float() | Decimal() if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
    raise Validation(f"{what}: the value is not a {kind} that can be stored.")
