"""The portable linter: every hazard a compiler can see, as a diagnostic with a code, a reason and a remedy.

The strictest engine's limits apply to every schema, so that a declaration that passes here runs everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from string import Formatter
from typing import TYPE_CHECKING, Literal

from palaver.declared import Declared, FieldSpec
from palaver.keys import AccessPath, Part
from palaver.markers import Blob, Personal, Subject

if TYPE_CHECKING:
    from palaver.schema import Schema

_NAME = re.compile(r"[A-Za-z0-9_.{}-]{3,255}")
MAX_INDEXES = 20
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
FEW = 12


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. An error stops the schema from being built; a warning is printed by `palaver schema check`."""

    code: str
    level: Literal["error", "warning"]
    where: str
    reason: str
    remedy: str


def lint_entity(declared: Declared) -> Iterator[Diagnostic]:
    """Find what would fail, or hurt, on one of the engines."""
    name = declared.name
    if not _NAME.fullmatch(declared.table.name):
        yield Diagnostic(
            "table_name", "error", name, "Its table name is not 3 to 255 of A-Z a-z 0-9 _ . -.", "Rename it; DynamoDB takes no other names."
        )
    if len(declared.table.indexes) > MAX_INDEXES:
        yield Diagnostic("too_many_indexes", "error", name, f"It has more than {MAX_INDEXES} indexes.", "Drop or merge some.")
    for path in declared.access.values():
        yield from _lint_path(declared, path)
    yield from _lint_ranges(declared)
    yield from _lint_columns(declared)
    for spec in declared.blobs:
        yield from _lint_blob(declared, spec)
    yield from _lint_subject(declared)


def _lint_columns(declared: Declared) -> Iterator[Diagnostic]:
    """Find names that an engine keeps to itself, or takes for one."""
    for spec in declared.fields.values():
        if spec.stored.lower() in SYSTEM_COLUMNS:
            yield Diagnostic(
                "system_column",
                "error",
                f"{declared.name}.{spec.name}",
                "Every table of PostgreSQL has a column of this name already.",
                'Store it under another, with Stored("…").',
            )
    for what, names in (("fields", [spec.stored for spec in declared.fields.values()]), ("indexes", list(declared.access))):
        if alike := alike_but_for_case(names):
            yield Diagnostic(
                "same_but_for_case",
                "error",
                declared.name,
                f"Its {what} {alike[0]} and {alike[1]} differ only in case, and SQLite takes them for one.",
                'Rename one; a field can be stored under another name, with Stored("…").',
            )


def alike_but_for_case(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that differ in case alone, or None."""
    seen: dict[str, str] = {}
    return next(((first, name) for name in names if (first := seen.setdefault(name.lower(), name)) != name), None)


def _lint_blob(declared: Declared, spec: FieldSpec) -> Iterator[Diagnostic]:
    """Find why the path of a large value would not do."""
    marker: Blob = spec.marker(Blob)
    if marker.path.startswith("/"):
        yield Diagnostic(
            "blob_leading_slash",
            "error",
            f"{declared.name}.{spec.name}",
            "Its path begins with a slash, which makes an empty first segment.",
            "Leave the slash out.",
        )
    named = {name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(marker.path) if name}
    named |= {declared.subject.name} if declared.subject else set()
    missing = [part.path for part in declared.access["key"].parts if part.path not in named]
    if missing:
        yield Diagnostic(
            "blob_path_shared",
            "error",
            f"{declared.name}.{spec.name}",
            f"Its path does not name {', '.join(missing)}, so two records could share one object, and lose it together.",
            "Name every key field in the path.",
        )


def _lint_subject(declared: Declared) -> Iterator[Diagnostic]:
    """Find personal data that is nobody's, or that nothing finds."""
    if any(spec.marker(Personal) for spec in declared.fields.values()) and declared.subject is None:
        yield Diagnostic(
            "personal_without_subject",
            "error",
            declared.name,
            "It holds personal data and does not say whose.",
            "Mark the field that names the person with Subject().",
        )
    if declared.subject is not None and subject_path(declared) is None:
        yield Diagnostic(
            "subject_unindexed",
            "warning",
            declared.name,
            f"Nothing finds the records of one {declared.subject.name}, so erasing a person reads the whole table.",
            f"Add Index({declared.subject.name!r}, sort=…) on fields that are always there.",
        )


def _lint_ranges(declared: Declared) -> Iterator[Diagnostic]:
    """Find why records cannot be kept in parts by time, where that is asked for."""
    if declared.partitioned is None:
        return
    name = declared.partitioned.field
    where = f"{declared.name}.{name}"
    if declared.table.ranges is None:
        yield Diagnostic(
            "partition_not_time",
            "error",
            where,
            "The records are to be kept in parts by it, and it tells no time.",
            "Name an instant, a Snowflake, or a text with default_factory=new_id.",
        )
    if all(part.path != name for part in declared.access["key"].parts):
        yield Diagnostic(
            "partition_not_key",
            "error",
            where,
            "The records are to be kept in parts by it, and it is no part of the key, so that a record could move.",
            "Name the sort field of the key.",
        )


def _lint_path(declared: Declared, path: AccessPath) -> Iterator[Diagnostic]:
    where = f"{declared.name}.{path.name}"
    if path.physical is not None and not _NAME.fullmatch(path.physical):
        yield Diagnostic("index_name", "error", where, "Its stored name is not 3 to 255 of A-Z a-z 0-9 _ . -.", "Set name=.")
    if path.physical is not None and not path.shards:
        # One part of many values is enough to spread the whole partition.
        values = prod(_few_values(declared, part.path) for part in path.partition)
        if path.partition and 0 < values <= FEW:
            yield Diagnostic(
                "hot_partition",
                "warning",
                where,
                f"{' and '.join(part.path for part in path.partition)} has {values} values, so all writes go to {values} partitions, "
                "and a throttled index throttles its table.",
                "Spread it with shards=8.",
            )
    if path.physical is not None:
        key = declared.access["key"]
        if [part.path for part in path.partition] == [part.path for part in key.partition] and [part.path for part in path.sort] == [
            part.path for part in key.sort
        ]:
            yield Diagnostic("duplicate_index", "warning", where, "It repeats the key.", "Remove it; it doubles the cost of each write.")
        if len(path.partition) == 1 and not path.sort and _is_instant(declared, path.partition[0].path):
            yield Diagnostic(
                "instant_partition",
                "warning",
                where,
                "Its partition is an instant, so only exact instants can be looked up.",
                "Make the instant the sort part, with shards=8 and no partition.",
            )


def _few_values(declared: Declared, path: str) -> int:
    spec = declared.fields.get(path)
    if spec is None:
        return 0
    if spec.kind.column == "bool":
        return 2
    return len(spec.check[1]) if spec.check and spec.check[0] == "in" and len(spec.check[1]) <= FEW else 0  # type: ignore[arg-type]


def _is_instant(declared: Declared, path: str) -> bool:
    from palaver.markers import Instant

    spec = declared.fields.get(path)
    return spec is not None and spec.marker(Instant) is not None


def _lint_searches(schema: Schema) -> Iterator[Diagnostic]:
    """Find texts that are to be found and are in no index."""
    taken = {
        (source.declared.name, path.partition(".")[0])
        for search in schema.searches.values()
        for source in search.sources
        for path, _ in source.text
    }
    for declared in schema.entities.values():
        for spec in declared.searchable:
            if (declared.name, spec.name) not in taken:
                yield Diagnostic(
                    "searchable_unsearched",
                    "warning",
                    f"{declared.name}.{spec.name}",
                    "It is Searchable, and no search of the schema takes it, so it is not found.",
                    f'Give the schema searches=[Search("…", Source({declared.name}))].',
                )


def lint_schema(schema: Schema) -> Iterable[Diagnostic]:
    """Find what is wrong between entities."""
    for declared in schema.entities.values():
        if schema.tenanted and declared.tenant is None:
            yield Diagnostic(
                "tenant_missing",
                "error",
                declared.name,
                "Other entities of the schema belong to tenants and this one does not.",
                "Add a field marked Tenant().",
            )
    yield from _lint_searches(schema)
    held = {reference.parent.name for reference in schema.references if reference.ref.on_delete == "restrict"}
    for reference in schema.references:
        if reference.ref.on_delete == "cascade" and reference.child.name in held:
            yield Diagnostic(
                "restrict_below_cascade",
                "error",
                f"{reference.child.name}.{reference.ref.name}",
                f"It goes with its {reference.parent.name}, and other records may hold it back, which nobody can see in time.",
                'Let those go as well, on_delete="cascade", or stay, on_delete="keep".',
            )
        child, parent = reference.child, reference.parent
        if parent.expires is not None and child.expires is None and reference.ref.on_delete == "restrict":
            yield Diagnostic(
                "outlived_parent",
                "warning",
                f"{child.name}.{reference.ref.name}",
                f"{parent.name} expires and {child.name} does not, so references will break.",
                'Use on_delete="cascade", or "keep".',
            )
        if any(spec.marker(Subject) for spec in parent.fields.values()) and child.subject is None and child.personal:
            yield Diagnostic(
                "subject_missing", "warning", child.name, "Its parent has a subject and it has none.", "Carry the subject on it as well."
            )


def subject_path(declared: Declared) -> AccessPath | None:
    """Return the key or index that finds all records of one person; None where only a scan does.

    An index with a part that may be missing is none: the records without it are not in it.
    """
    if declared.subject is None:
        return None
    for path in sorted(declared.access.values(), key=lambda path: path.physical is not None):
        if [part.path for part in path.partition] == [declared.subject.name] and all(_always(declared, part) for part in path.sort):
            return path
    return None


def _always(declared: Declared, part: Part) -> bool:
    return len(part.steps) == 1 and not part.sentinels and not declared.fields[str(part.steps[0])].optional
