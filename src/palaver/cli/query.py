"""`palaver query`: records through a declared index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from palaver.cli.amounts import Count
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from datetime import datetime

    from palaver.cli.output import Output
    from palaver.declared import Declared
    from palaver.entity import Entity
    from palaver.query import Query
    from palaver.store import Store

READ = 100
WIDE = 50


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which of the records, and what of them: the options of the command."""

    by: str = "key"
    """The index, `key`, or a unique set."""
    between: tuple[str, str] | None = None
    """Keep sort values from the first to the second, both included."""
    newest_first: bool = False
    """Turn the order around."""
    where: list[str] | None = None
    """Drop records after reading: intent.name=fixtures, latency>500, note, !note. All must hold."""
    limit: Annotated[Count, Parameter(show_default=True)] = 20
    """How many records."""
    cursor: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Go on where an earlier page ended."""
    count: bool = False
    """Print only how many there are."""
    explain: bool = False
    """Print what would be sent, and what it costs."""


ANY = Wanted()


@emits("query", "count", "explain")
async def query(entity: str, /, *values: str, wanted: Wanted = ANY, here: Here) -> int:
    """Read records of one partition of a key or an index, in its order. Without values, any records.

    Parameters
    ----------
    entity
        An entity, by class or table name.
    values
        The partition values, then leading sort values, as the index declares them.
    """
    from palaver.cli.typed import asked, conditions, entity_of
    from palaver.query import UniqueAt

    async with here.open() as store:
        declared = entity_of(store.schema, entity)
        now = store.clock.now()
        condition = conditions(declared.entity, wanted.where, now)
        if not values and wanted.by == "key" and declared.access["key"].partition:
            return await _browse(here.out, store, declared, condition, wanted)
        what = asked(declared, wanted.by, values, now)
        if isinstance(what, UniqueAt):
            found = await store.find(what)
            return _show(here.out, declared, [found] if found is not None else [], None)
        what = _narrowed(declared, what, wanted, now)
        return await _read(here.out, store, declared, what if condition is None else what.filter(condition), wanted)


async def _read(out: Output, store: Store, declared: Declared, what: Query[Any], wanted: Wanted) -> int:
    """Print what was asked about a query: what it would send, how many there are, or a page of them."""
    if wanted.explain:
        return _explain(out, await store.explain(what.limit(wanted.limit)))
    if wanted.count:
        return _count(out, declared, await store.count(what))
    items, after = await _page(store, what, wanted.limit, wanted.cursor)
    return _show(out, declared, items, after, [part.path for part in what.path.sort])


def _indexes(declared: Declared) -> str:
    return ", ".join(f"{name}({', '.join(part.path for part in path.parts)})" for name, path in declared.access.items())


def _narrowed(declared: Declared, what: Query[Any], wanted: Wanted, now: datetime) -> Query[Any]:
    if wanted.between is not None:
        from palaver.cli.typed import value_of
        from palaver.expr import Path

        sort = what.path.sort[len(what.fixed) :]
        low, high = [value_of(declared.entity, Path(sort[0].path), text, now) if sort else text for text in wanted.between]
        what = what.between(low, high)
    return what.newest_first() if wanted.newest_first else what


async def _page(store: Store, what: Query[Any], limit: int, cursor: str | None) -> tuple[list[Entity], str | None]:
    """Return exactly `limit` matching records where there are as many, and a cursor after the last of them."""
    from palaver.cli.reading import cursor_after

    items: list[Entity] = []
    while True:
        page = await store.page(what, limit=READ if what.condition is not None else limit - len(items), cursor=cursor)
        items.extend(page)
        cursor = page.cursor
        if len(items) > limit:
            items = items[:limit]
            return items, cursor_after(store, what, items[-1])
        if cursor is None or len(items) == limit:
            return items, cursor


async def _browse(out: Output, store: Store, declared: Declared, condition: Any, wanted: Wanted) -> int:
    """Show any records: how a person looks at what is there before knowing an index."""
    from palaver.cli.reading import scan

    if wanted.explain or wanted.count or wanted.cursor or wanted.between:
        raise Stop(Exit.USAGE, "usage", f"{declared.name} is read through an index here.", hint=f"There are: {_indexes(declared)}.")
    items: list[Entity] = []
    async for entity in scan(store, declared, condition):
        items.append(entity)
        if len(items) == wanted.limit:
            break
    out.say(f"note: read without an index, in no order. Indexes of {declared.name}: {_indexes(declared)}")
    return _show(out, declared, items, None)


def _show(out: Output, declared: Declared, items: Sequence[Entity], after: str | None, sort: Sequence[str] = ()) -> int:
    from palaver.cli.plain import plain

    records = [plain(item) for item in items]
    if out.json:
        out.emit("query", {"entity": declared.name, "data": records, "has_more": after is not None, "next_cursor": after})
        return Exit.OK
    columns, rows = _fitting(declared, items, sort, out.console.width)
    out.table(columns, rows, one_line=True)
    out.say(f"{len(records):,} {declared.name} record{'s' if len(records) != 1 else ''}")
    if after is not None:
        out.say(f"next page: --cursor {after}")
    return Exit.OK


def _fitting(declared: Declared, items: Sequence[Entity], sort: Sequence[str], width: int) -> tuple[list[str], list[list[str]]]:
    """Choose the columns a line has room for: the key whole, then the order, what was said, and other scalars while they fit."""
    key = [part.path for part in declared.access["key"].parts]
    said = [spec.name for spec in declared.searchable]
    hidden = {declared.expires.name} if declared.expires else set()
    hidden |= {spec.name for spec in declared.fields.values() if spec.secret}
    from pydantic import BaseModel

    nested = (dict, list, tuple, set, frozenset, BaseModel)
    columns: dict[str, list[str]] = {}
    room = width
    for name in dict.fromkeys([*key, *(name for name in sort if name in declared.fields), *said, *declared.fields]):
        values = [getattr(item, name) for item in items]
        if name not in key and (name in hidden or all(value is None or isinstance(value, nested) for value in values)):
            continue
        cells = [_one_line(value, whole=name in key) for value in values]
        needs = max(map(len, [name, *cells])) + 2
        if name in key or needs <= room:
            columns[name] = cells
            room -= needs
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)] if items else []


def _one_line(value: object, *, whole: bool) -> str:
    from palaver.cli.output import plain_text

    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else " ".join(plain_text(value).split())
    return text if whole or len(text) <= WIDE else text[: WIDE - 1] + "…"


def _count(out: Output, declared: Declared, n: int) -> int:
    if out.json:
        out.emit("count", {"entity": declared.name, "count": n})
    else:
        out.write(f"{n:,}")
    return Exit.OK


def _explain(out: Output, found: Any) -> int:
    if out.json:
        body = {"what": found.what, "steps": found.steps, "requests": found.requests, "warnings": found.warnings, "detail": found.detail}
        out.emit("explain", body)
    else:
        out.print(str(found))
    return Exit.OK
