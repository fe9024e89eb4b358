"""Old schema → new schema: what is stored and its snapshot on one side, the declaration on the other, ordered steps between.

Every step is also taken in thought, so that the next is derived from what will be there; nothing here reads a record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from palaver.declared import Declared
from palaver.errors import NotProvisioned
from palaver.evolve.actions import AUTOMATIC, Action, Claim, Demand, Rebuild, Release, Take
from palaver.evolve.columns import Columns
from palaver.evolve.draft import PHASES, Draft
from palaver.evolve.drift import base_of, drift_of
from palaver.evolve.names import Names
from palaver.ops import CreateIndex, CreateTable, DropIndex, DropTable, Physical, RenameTable, SetExpiry, Table
from palaver.plan import Planner
from palaver.snapshot import form
from palaver.system import HISTORY


@dataclass(frozen=True)
class Migration:
    """From what a database holds to what a schema declares: the steps in order, what they need, and what stays behind."""

    schema: str
    from_version: int
    from_fingerprint: str
    version: int
    fingerprint: str
    base: str
    actions: tuple[Action, ...] = ()
    demands: tuple[Demand, ...] = ()
    kept: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    """What could not be looked at, and is left as it is."""
    unmet: tuple[str, ...] = field(default=(), compare=False)
    """What stored records do not fulfil, in words with counts, where that was looked at."""
    under_way: int | None = field(default=None, compare=False)
    """How many of its actions were done when it was looked at; None where it had not begun."""

    @property
    def automatic(self) -> bool:
        """Whether nothing in it can hurt a program of the version before; what leads back is for a program of the version after."""
        return self.version >= self.from_version and all(action.effect in AUTOMATIC for action in self.actions)


def migration(
    planner: Planner,
    physical: Physical,
    stored: Mapping[str, Any] | None = None,
    *,
    allow: Collection[str] = (),
    renames: bool = True,
    partitions: bool = False,
    names: Names | None = None,
) -> Migration:
    """Return what makes a database fit a schema; `stored` is what was kept with the data at the last change.

    `names` says what is stored under another name although no declaration tells. Raises NotProvisioned, with every reason, where
    stored data would be stranded; `allow` names what may be lost.
    """
    stored = stored or {}
    draft = Draft({table.name: table for table in physical.tables}, allow, names or Names())
    _fill(draft, planner, stored.get("snapshot") or {}, renames, partitions)
    schema = planner.schema
    return Migration(
        schema.name,
        int(stored.get("version", 0)),
        str(stored.get("fingerprint", "")),
        schema.version,
        schema.fingerprint,
        base_of(physical, stored),
        tuple(action for phase in PHASES for action in draft.phases[phase]),
        tuple(draft.demands),
        tuple(draft.kept),
        tuple(drift_of(physical, stored)),
    )


def _fill(draft: Draft, planner: Planner, snapshot: Mapping[str, Any], renames: bool, partitions: bool) -> None:
    """Add all that is to be done, or raise with every reason why it cannot be."""
    existed = bool(draft.now)
    _tables(draft, planner, snapshot, renames)
    if partitions:
        _ranges(draft, planner)
    _uniques(draft, planner, snapshot, existed)
    _references(draft, planner, snapshot)
    _searches(draft, planner, snapshot)
    _gone(draft, planner, snapshot)
    for label in sorted(set(draft.allow) - draft.used):
        draft.refuse(f"Nothing stored is called {label} and would be lost.", hint="Name what `palaver migrate plan` lists as kept.")
    if draft.refusals:
        first = draft.refusals[0]
        message = " ".join(f"{each.message} {each.hint}" for each in draft.refusals) if len(draft.refusals) > 1 else first.message
        raise NotProvisioned(message, hint=first.hint if len(draft.refusals) == 1 else "", **first.context)


def _tables(draft: Draft, planner: Planner, snapshot: Mapping[str, Any], renames: bool) -> None:
    entities = {entity["table"]["name"]: entity for entity in snapshot.get("entities", ())}
    declared = {each.table.name: each for each in planner.schema.entities.values()}
    for name, table in planner.tables.items():
        owner = declared.get(name)
        before = _renamed(draft, planner, table, declared.get(name.removesuffix(HISTORY)), renames) or name
        if name not in draft.now:
            if owner is not None and not owner.entity.__palaver_renamed_from__:
                _left_behind(draft, planner, owner, snapshot)
            draft.take("tables", CreateTable(table), "adds")
            continue
        _table(draft, table, owner, entities.get(before, {}))


def _left_behind(draft: Draft, planner: Planner, owner: Declared, snapshot: Mapping[str, Any]) -> None:
    """Refuse an empty table for an entity whose records are in another one, which nobody declares any more."""
    tables = [entity["table"]["name"] for entity in snapshot.get("entities", ()) if entity["name"] == owner.name]
    for old in tables:
        if old in draft.now and old not in planner.tables and not draft.permits(owner.name):
            draft.refuse(
                f"{owner.name} is stored in table {old} and declared in table {owner.table.name}, which would be empty.",
                hint=f'Take the records along with renamed_from="{old}", or drop them: --allow-data-loss {owner.name}.',
                entity=owner.name,
            )


def _renamed(draft: Draft, planner: Planner, table: Table, owner: Declared | None, renames: bool) -> str | None:
    """Take the table along under its new name; return the name it is stored under."""
    former = table.name
    if owner is not None and (told := draft.names.tables.get(owner.table.name) or owner.entity.__palaver_renamed_from__):
        former = told + HISTORY if table.name.endswith(HISTORY) else told
    if table.name in draft.now:
        former = table.name
    if former not in draft.now or former in planner.tables.keys() - {table.name}:
        return None
    stored = draft.now[former]
    if former != table.name and not renames and not table.name.endswith(HISTORY):
        draft.refuse(
            f"{table.entity} is stored in {former}, and this engine keeps the names of its tables.",
            hint=f'Keep table="{former}", which costs nothing. Where the name must go: with the program of before'
            " `palaver copy` into a file, `palaver migrate apply` to that, and copy it into tables of another prefix.",
            entity=table.entity,
        )
    if renames and (stored.name, stored.entity) != (table.name, table.entity):
        draft.take("tables renamed", RenameTable(table, former), "renames")
    return former if table.name in draft.now else None


def _table(draft: Draft, table: Table, owner: Declared | None, before: Mapping[str, Any]) -> None:
    if draft.now[table.name].key != table.key or draft.now[table.name].partition != table.partition:
        draft.refuse(
            f"{table.entity} is stored with another key than it declares.",
            hint="A key cannot change in place: copy the records into a new entity.",
            entity=table.entity,
        )
        return
    Columns(draft, table, owner, before).compare()
    now = draft.now[table.name]
    if now.expires != table.expires:
        draft.take("expiry", SetExpiry(table, table.expires), "adds" if now.expires is None else "widens")
    indexes = {index.name: index for index in draft.now[table.name].indexes}
    wanted = {index.name: index for index in table.indexes}
    for name, index in wanted.items():
        if indexes.get(name) != index:
            draft.take("indexes", CreateIndex(table, index), "adds")
    for name in sorted(indexes.keys() - wanted.keys()):
        draft.take("indexes gone", DropIndex(table, name), "tidies")
    for column in draft.now[table.name].columns:
        if column.shadow and all(column.name != each.name for each in table.columns):
            Columns(draft, table, owner, before).forget(column)


def _ranges(draft: Draft, planner: Planner) -> None:
    """Refuse to keep in parts what is stored whole: that rewrites every record while nobody may write."""
    for name, table in planner.tables.items():
        now = draft.now.get(name)
        if now is None or table.ranges is None or now.ranges == table.ranges:
            continue
        draft.refuse(
            f"{table.entity} is stored {'in other parts' if now.ranges else 'whole'} and declared Partitioned({table.ranges.column!r}).",
            hint="With this program, `palaver copy OLD NEW --follow` makes it in parts in another database or schema,"
            " while the program of before writes; or take Partitioned away.",
            entity=table.entity,
        )


# --- what records hold beside their columns -------------------------------------------------------------------------


def _uniques(draft: Draft, planner: Planner, snapshot: Mapping[str, Any], existed: bool) -> None:
    """Reserve the values of unique sets that are new, or claim something else than before."""
    created = {action.step.table.name for action in draft.phases["tables"] if isinstance(action, Take)}
    former = {action.step.table.name: action.step.old for action in draft.phases["tables renamed"] if isinstance(action, Take)}  # type: ignore[union-attr]
    entities = {entity["table"]["name"]: entity for entity in snapshot.get("entities", ())}
    held = {(entity["name"], name) for entity in entities.values() for name in entity["uniques"]}
    for declared in planner.schema.entities.values():
        table = declared.table.name
        before = entities.get(former.get(table, table))
        if table in created or not existed:
            continue
        renamed = _field_names(declared, before or {})
        for name, unique in declared.uniques.items():
            old = (before or {}).get("uniques", {}).get(name)
            fields = [renamed.get(part.path, part.path) for part in unique.parts]
            when = "" if unique.when is None else repr(unique.when)
            # A claim names the entity and says where the record lies, so both count.
            same = old == {"fields": fields, "when": when} and before is not None and before["name"] == declared.name
            # So does how the values are stored: a claim is made from that.
            same = same and all(
                _is_stored_alike(declared, before or {}, part.path, path) for part, path in zip(unique.parts, fields, strict=True)
            )
            if not same or table in former:
                draft.phases["claims"].append(Claim(table, declared.name, name))
                hint = "Change the records that share a value first, with the program of before."
                draft.demands.append(Demand("distinct", table, declared.name, name, tuple(part.path for part in unique.parts), hint))
    wanted = {(declared.name, name) for declared in planner.schema.entities.values() for name in declared.uniques}
    draft.phases["claims gone"] += [Release(entity, name) for entity, name in sorted(held - wanted)]


def _is_stored_alike(declared: Declared, before: Mapping[str, Any], path: str, former: str) -> bool:
    field = before.get("fields", {}).get(former.partition(".")[0])
    return field is None or field["form"] == form(declared.fields[path.partition(".")[0]].kind)


def _field_names(declared: Declared, before: Mapping[str, Any]) -> dict[str, str]:
    """Return the former names of fields that were renamed."""
    from palaver.markers import RenamedFrom

    old = before.get("fields", {})
    marked = {spec.name: spec.marker(RenamedFrom) for spec in declared.fields.values()}
    return {name: marker.name for name, marker in marked.items() if marker is not None and marker.name in old and name not in old}


def _references(draft: Draft, planner: Planner, snapshot: Mapping[str, Any]) -> None:
    """Have the parents of a reference that is new looked for."""
    entities = {entity["name"]: entity for entity in snapshot.get("entities", ())}
    created = {action.step.table.name for action in draft.phases["tables"] if isinstance(action, Take)}
    for reference in planner.schema.references:
        child = reference.child
        before = entities.get(child.name)
        if before is None or child.table.name in created:
            continue
        known = {(tuple(old["fields"]), old["to"]) for old in before["references"].values()}
        renamed = _field_names(child, before)
        if (tuple(renamed.get(name, name) for name in reference.ref.fields), reference.parent.name) not in known:
            hint = f"Create the missing {reference.parent.name} records, or delete those that refer to them."
            draft.demands.append(Demand("refers", child.table.name, child.name, reference.ref.name, hint=hint))


def _searches(draft: Draft, planner: Planner, snapshot: Mapping[str, Any]) -> None:
    """Fill an index anew whose documents come from elsewhere, while it is itself declared as it was."""
    old = {search["name"]: search for search in snapshot.get("searches", ())}
    new = {search["name"]: search for search in planner.schema.snapshot()["searches"]}
    for name in sorted(old.keys() & new.keys()):
        if all(old[name][part] == new[name][part] for part in ("text", "filters", "required")) and old[name] != new[name]:
            draft.phases["projections"] = [Rebuild("search")]


def _gone(draft: Draft, planner: Planner, snapshot: Mapping[str, Any]) -> None:
    """Keep the tables of entities that are declared no more, unless their loss was allowed."""
    declared = {entity["table"]["name"]: entity for entity in snapshot.get("entities", ())}
    for name, table in list(draft.now.items()):
        if name in planner.tables:
            continue
        entity = table.entity.removesuffix("History") + ".history" if name.endswith(HISTORY) else table.entity
        known = name in declared or name.removesuffix(HISTORY) in declared
        if not known and entity not in draft.allow:
            continue
        if draft.loses(entity):
            draft.take("tables gone", DropTable(table), "drops")
