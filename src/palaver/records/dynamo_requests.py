"""Requests to DynamoDB that write, built purely: every write as an action with its condition. Those that read are in dynamo_read_requests.

Nothing here waits or sends. The limits emulators do not hold (25, 100, 4 MB, 400 KB, reserved words, empty sets) hold here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from palaver.errors import BatchShape
from palaver.expr import Append, IfAbsent, Path, parse_path
from palaver.ops import (
    REVISION,
    Absent,
    Add,
    Cause,
    Change_,
    Check,
    Delete,
    Guard,
    Put,
    Remove,
    Unchanged,
    Update,
    apply_update,
    next_revision,
    revision_of,
)
from palaver.records import dynamo_conditions as conditions
from palaver.records.dynamo_conditions import NotNative, Terms
from palaver.records.dynamo_items import QUIET, cause_of, item_of, quiet_cause
from palaver.records.dynamo_keys import ASIDE, CAUSE, Layout, joined
from palaver.records.dynamo_values import (
    MAX_ITEM,
    MAX_LEVELS,
    Attribute,
    Item,
    attribute_size,
    encoded,
    is_surely_within,
    item_size,
    levels,
    nested,
)
from palaver.values import MAX_INT, MIN_INT, KeyPart, Record, Value

MAX_ACTIONS = 100
MAX_TRANSACTION = 4 * 1024 * 1024
MAX_WRITES = 25
UNSEEN: Any = object()
"""Stands for a record nobody has read: what is written must be right whatever is there."""


class Action(NamedTuple):
    """One action of a transaction, or a request of its own; `after` is the record an update leaves, where that is known."""

    kind: str
    body: dict[str, Any]
    revision: int | None = None
    after: Record | None = None


class Writing(NamedTuple):
    """What is common to the actions of one write set; `own` is the engine's own table, `until_s` when a tombstone may go.

    With `quiet`, a mark that no earlier write had, the feed leaves the writes out.
    """

    now_us: int
    cause: Cause
    own: str
    until_s: int
    quiet: str = ""


def put(layout: Layout, op: Put, writing: Writing, seen: Record | None = UNSEEN) -> Action:
    """Return the put; unseen, it may only replace a record whose revision is behind this instant. Raises NotNative."""
    about = _cause(layout, writing.cause, op.released)
    if seen is UNSEEN and (form := _form(layout, op.guards)) is not None:
        body = {"TableName": layout.name, "Item": item_of(layout, op.record, writing.now_us, about)}
        return Action("Put", form.into(body, writing.now_us), writing.now_us)
    terms = Terms()
    if seen is UNSEEN:
        revision, parts = _ahead_of(layout, terms, op.guards, writing.now_us)
    else:
        revision, parts = next_revision(seen, writing.now_us), [_exactly(layout, terms, seen)]
    item = item_of(layout, op.record, revision, about)
    return Action("Put", _conditional({"TableName": layout.name, "Item": item}, terms, parts), revision)


class _Form(NamedTuple):
    """A condition in which only the time is another each time; `times` says which values are it, in seconds or not."""

    condition: str
    names: dict[str, str]
    times: tuple[tuple[str, bool], ...]

    def into(self, body: dict[str, Any], now_us: int) -> dict[str, Any]:
        body["ConditionExpression"] = self.condition
        body["ExpressionAttributeNames"] = self.names
        if self.times:
            body["ExpressionAttributeValues"] = {
                alias: {"N": str(now_us // 1_000_000 if is_second else now_us)} for alias, is_second in self.times
            }
        return body


def _form(layout: Layout, guards: Sequence[Guard]) -> _Form | None:
    """Return the condition of an unseen put that most puts have; None for others."""
    if not guards:
        kind = "put"
    elif len(guards) == 1 and type(guards[0].when) is Absent:
        kind = "create"
    else:
        return None
    form: _Form | None = layout.forms.get(kind)
    if form is None:
        terms, now_us = Terms(), 10**15 + 1
        _, parts = _ahead_of(layout, terms, guards, now_us)
        if not parts:
            return None
        times = tuple((alias, value["N"] != str(now_us)) for alias, value in terms.values.items())
        form = layout.forms[kind] = _Form(conditions.conjunction(parts), terms.names, times)
    return form


def _ahead_of(layout: Layout, terms: Terms, guards: Sequence[Guard], now_us: int) -> tuple[int, list[str]]:
    """Return the new revision and what must hold for it to be the right one, whatever is stored."""
    parts = conditions.guarded(layout, terms, guards, now_us)
    for guard in guards:
        if isinstance(guard.when, Unchanged):
            seen = guard.when.revision
            return (now_us if seen is None else max(now_us, seen + 1)), parts
    nothing = conditions.nothing_stored(layout, terms)
    if nothing not in parts:
        parts.append(f"({nothing} OR {terms.name(REVISION)} < {terms.value({'N': str(now_us)})})")
    return now_us, parts


def _exactly(layout: Layout, terms: Terms, seen: Record | None) -> str:
    return conditions.unchanged(layout, terms, None if seen is None else revision_of(seen))


def _cause(layout: Layout, cause: Cause, released: tuple[str, ...]) -> Attribute | None:
    return cause_of(cause, released) if layout.table.feed else None


def _conditional(body: dict[str, Any], terms: Terms, parts: Sequence[str]) -> dict[str, Any]:
    if parts:
        body["ConditionExpression"] = conditions.checked(conditions.conjunction(parts))
    return terms.into(body)


def updated(layout: Layout, op: Update, writing: Writing, seen: Record) -> Action:
    """Return the update of a record that was read as the put of what it becomes. Raises what `apply_update` raises."""
    after = apply_update(layout.table, seen, op.changes)
    revision = next_revision(seen, writing.now_us)
    terms = Terms()
    item = item_of(layout, after, revision, _cause(layout, writing.cause, op.released))
    body = _conditional({"TableName": layout.name, "Item": item}, terms, [_exactly(layout, terms, seen)])
    return Action("Put", body, revision, {**after, REVISION: revision})


def update(layout: Layout, op: Update, writing: Writing, *, ahead: bool = False) -> Action:
    """Return the update of an unseen record, done by DynamoDB itself. Raises NotNative where that could differ.

    With `ahead` it is for a record whose revision is at or past this instant, otherwise for one whose revision is behind.
    """
    terms = Terms()
    parts = [conditions.something_stored(layout, terms), *conditions.guarded(layout, terms, op.guards, writing.now_us)]
    parts.append(f"attribute_not_exists({terms.name(ASIDE)})")
    sets, removes, adds = _changes(layout, terms, op.changes, parts)
    becomes, revision = _next_revision(terms, op.guards, writing.now_us, parts, ahead=ahead)
    sets.append(becomes)
    if layout.table.feed:
        cause = cause_of(writing.cause, op.released)
        if cause is None:
            removes.append(terms.name(CAUSE))
        else:
            sets.append(f"{terms.name(CAUSE)} = {terms.value(cause)}")
    clauses = [f"{word} {', '.join(each)}" for word, each in (("SET", sets), ("REMOVE", removes), ("ADD", adds)) if each]
    body = {"TableName": layout.name, "Key": layout.key(op.at.key), "UpdateExpression": conditions.checked(" ".join(clauses))}
    return Action("Update", _conditional(body, terms, parts), revision)


def _next_revision(terms: Terms, guards: Sequence[Guard], now_us: int, parts: list[str], *, ahead: bool) -> tuple[str, int | None]:
    """Return what sets the new revision, and that where it is known; add to `parts` what must hold for it to be the right one."""
    revision = terms.name(REVISION)
    for guard in guards:
        if isinstance(guard.when, Unchanged) and guard.when.revision is not None:
            becomes = max(now_us, guard.when.revision + 1)
            return f"{revision} = {terms.value({'N': str(becomes)})}", becomes
    now = terms.value({"N": str(now_us)})
    if ahead:
        parts.append(f"{revision} >= {now}")
        return f"{revision} = {revision} + {terms.value({'N': '1'})}", None
    parts.append(f"{revision} < {now}")
    return f"{revision} = {now}", now_us


def _changes(layout: Layout, terms: Terms, changes: Sequence[Change_], parts: list[str]) -> tuple[list[str], list[str], list[str]]:
    sets: list[str] = []
    removes: list[str] = []
    adds: list[str] = []
    touched: set[str] = set()
    for change in changes:
        name = _top(layout, change.path, touched)
        alias = terms.name(name)
        if isinstance(change, Add):
            adds.append(f"{alias} {_amount(layout, terms, name, change.amount, parts)}")
        elif isinstance(change, Remove) or change.to is None:
            removes.append(alias)
        else:
            sets.append(f"{alias} = {_operand(layout, terms, name, change.to, parts)}")
    return sets, removes, adds


def _top(layout: Layout, path: Path, touched: set[str]) -> str:
    """Return the top-level attribute of a change that DynamoDB may do by itself."""
    steps = parse_path(path)
    name = str(steps[0])
    # A composite attribute would have to follow its columns, and a path inside a value may meet a tag.
    if len(steps) > 1 or name in touched or name in layout.entangled:
        raise NotNative
    if name in layout.table.key or name in layout.hidden or name == REVISION:
        raise NotNative
    touched.add(name)
    return name


def _operand(layout: Layout, terms: Terms, name: str, to: Any, parts: list[str]) -> str:
    match to:
        case Path():
            raise NotNative
        case IfAbsent(path, default):
            if path.name != name or default is None:
                raise NotNative
            return f"if_not_exists({terms.name(name)}, {terms.value(_stored(layout, name, default))})"
        case Append(path, items):
            if path.name != name or layout.kinds.get(name) != "json":
                raise NotNative
            added = terms.value(_shallow(nested(list(items))))
            parts.append(_absent_or(terms, name, "L"))
            return f"list_append(if_not_exists({terms.name(name)}, {terms.value({'L': []})}), {added})"
    return terms.value(_stored(layout, name, to))


def _stored(layout: Layout, name: str, value: Value) -> Attribute:
    if name in layout.indexed and not layout.indexed[name].fits(value):
        raise NotNative
    return _shallow(encoded(layout.kinds.get(name, "json"), value))


def _shallow(attribute: Attribute) -> Attribute:
    if levels(attribute) > MAX_LEVELS:
        raise NotNative
    return attribute


def _amount(layout: Layout, terms: Terms, name: str, amount: Value, parts: list[str]) -> str:
    """Return what DynamoDB adds exactly as we would: integers that stay within 64 bits, and elements of native sets."""
    if type(amount) is int and layout.kinds.get(name) == "int" and MIN_INT <= amount <= MAX_INT:
        alias = terms.name(name)
        room = f"<= {terms.value({'N': str(MAX_INT - amount)})}" if amount >= 0 else f">= {terms.value({'N': str(MIN_INT - amount)})}"
        parts.append(f"(attribute_not_exists({alias}) OR {alias} {room})")
        return terms.value({"N": str(amount)})
    if type(amount) is frozenset and layout.kinds.get(name) == "json":
        attribute = nested(amount)
        if "M" not in attribute:
            parts.append(_absent_or(terms, name, next(iter(attribute))))
            return terms.value(attribute)
    raise NotNative


def _absent_or(terms: Terms, name: str, native: str) -> str:
    """Return that an attribute is not there or of a type: of another one, the change is an error that is found here."""
    alias = terms.name(name)
    return f"(attribute_not_exists({alias}) OR attribute_type({alias}, {terms.value({'S': native})}))"


def delete(layout: Layout, op: Delete, writing: Writing, seen: Record | None = UNSEEN) -> list[Action]:
    """Return the deletion and, where the feed is to know why, the tombstone that tells it. Raises NotNative.

    A deletion that leaves a tombstone must know the revision it deletes: from a guard, or from the record as it was seen.
    """
    body = {"TableName": layout.name, "Key": layout.key(op.at.key)}
    terms = Terms()
    if seen is None:
        return [Action("ConditionCheck", _conditional(body, terms, [conditions.nothing_stored(layout, terms)]))]
    if seen is UNSEEN:
        parts = conditions.guarded(layout, terms, op.guards, writing.now_us)
        known = next((guard.when.revision for guard in op.guards if isinstance(guard.when, Unchanged)), None)
    else:
        parts, known = [_exactly(layout, terms, seen)], revision_of(seen)
    gone = Action("Delete", _conditional(body, terms, parts))
    if not layout.table.feed:
        return [gone]
    if known is None:
        raise NotNative
    return [gone, _tombstone(layout, op, writing, known)]


def gone_key(table: str, key: Sequence[KeyPart], revision: int) -> Item:
    """Return where the tombstone of one revision of a record lies, in the engine's own table."""
    # A key and its table may be longer than a key may be; nor is a person's identifier needed here.
    return {"pk": {"S": f"gone#{table}#{sha256(joined(key).encode()).hexdigest()}"}, "sk": {"S": f"{revision:024d}"}}


def _tombstone(layout: Layout, op: Delete, writing: Writing, revision: int) -> Action:
    item = gone_key(layout.table.name, op.at.key, revision)
    item["revision"] = {"N": str(max(writing.now_us, revision + 1))}
    item["kind"] = {"S": "expired" if op.expired else "deleted"}
    item["expires"] = {"N": str(writing.until_s)}
    cause = cause_of(writing.cause, op.released)
    if cause is not None:
        item[CAUSE] = cause
    if writing.quiet:
        item[QUIET] = {"S": writing.quiet}
    return Action("Put", {"TableName": writing.own, "Item": item})


def check(layout: Layout, op: Check, writing: Writing, seen: Record | None = UNSEEN) -> Action:
    """Return the check of the guards, or that a record is still as it was seen. Raises NotNative."""
    terms = Terms()
    is_unseen = seen is UNSEEN
    parts = conditions.guarded(layout, terms, op.guards, writing.now_us) if is_unseen else [_exactly(layout, terms, seen)]
    return Action("ConditionCheck", _conditional({"TableName": layout.name, "Key": layout.key(op.at.key)}, terms, parts))


def restored(layout: Layout, record: Record, quiet: str, *, over: bool) -> dict[str, Any]:
    """Return the put of a record as another database has it; unless `over`, one whose stored revision is higher stays."""
    terms = Terms()
    revision = revision_of(record)
    cause = quiet_cause(quiet) if layout.table.feed else None
    body: dict[str, Any] = {"TableName": layout.name, "Item": item_of(layout, record, revision, cause)}
    parts: list[str] = []
    if not over:
        older = f"{terms.name(REVISION)} <= {terms.value({'N': str(revision)})}"
        parts = [f"({conditions.nothing_stored(layout, terms)} OR {older})"]
    return _conditional(body, terms, parts)


def single(action: Action) -> tuple[str, dict[str, Any]]:
    """Return an action as a request of its own: its operation and body."""
    body = dict(action.body)
    if "ConditionExpression" in body:
        body["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    if action.kind == "Update":
        body["ReturnValues"] = "ALL_NEW"
    return f"{action.kind}Item", body


def transaction(actions: Sequence[Action], token: str) -> dict[str, Any]:
    """Return the request that takes all actions or none. Raises BatchShape over 100 actions, 4 MB, or two on one item."""
    if len(actions) > MAX_ACTIONS:
        raise BatchShape(
            f"The batch takes {len(actions)} actions in DynamoDB, where a deletion that the feed shows counts as two; the most is 100.",
            hint="Split it, or use bulk where all-or-nothing is not needed.",
        )
    if not _is_surely_small(actions):
        total = sum(map(_action_size, actions))
        if total > MAX_TRANSACTION:
            raise BatchShape(f"The batch would send {total:,} bytes; the most is {MAX_TRANSACTION:,}.", hint="Split it.")
    items = []
    for action in actions:
        body = dict(action.body)
        if "ConditionExpression" in body:
            body["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        items.append({action.kind: body})
    return {"TransactItems": items, "ClientRequestToken": token}


def _is_surely_small(actions: Sequence[Action]) -> bool:
    """Say so without measuring items again, each of which was found to fit when its action was made."""
    spare = MAX_TRANSACTION - len(actions) * MAX_ITEM
    if spare > 0 and is_surely_within(spare, [action.body.get("ExpressionAttributeValues") for action in actions]):
        return True
    return is_surely_within(MAX_TRANSACTION, [action.body for action in actions])


def _action_size(action: Action) -> int:
    body = action.body
    held = item_size(body["Item"]) if "Item" in body else item_size(body["Key"])
    return held + sum(map(attribute_size, body.get("ExpressionAttributeValues", {}).values()))


def batches(requests: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, list[dict[str, Any]]]]:
    """Return puts and deletes, each with its table, in requests of at most 25."""
    out: list[dict[str, list[dict[str, Any]]]] = []
    for start in range(0, len(requests), MAX_WRITES):
        some: dict[str, list[dict[str, Any]]] = {}
        for table, request in requests[start : start + MAX_WRITES]:
            some.setdefault(table, []).append(request)
        out.append(some)
    return out
