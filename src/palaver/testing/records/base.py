"""The tables the suite declares, and what its tests share: making engines, writing, reading whole, comparing exactly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeAlias

import pytest

from palaver.errors import Conflict
from palaver.expr import Condition
from palaver.ops import (
    REVISION,
    Absent,
    Address,
    Alive,
    Bound,
    Cause,
    Change,
    Change_,
    Column,
    Delete,
    Guard,
    Holds,
    IndexSpec,
    Op,
    Origin,
    Put,
    Read,
    Refused,
    Table,
    Unchanged,
    Update,
    When,
    WriteSet,
    Written,
    position,
)
from palaver.ports import RecordEngine
from palaver.values import KeyPart, Record

MakeEngine: TypeAlias = Callable[..., Awaitable[RecordEngine]]

SECOND = 1_000_000
NOW_S = 1_767_225_600
NOW = NOW_S * SECOND
NOBODY = Cause()

NOTES = Table(
    "suite-notes",
    "Note",
    columns=(
        Column("owner", "text", required=True),
        Column("id", "text", required=True),
        Column("kind", "text"),
        Column("stamp", "int"),
        Column("text", "text"),
        Column("score", "float"),
        Column("amount", "number"),
        Column("done", "bool"),
        Column("raw", "bytes"),
        Column("data", "json"),
        Column("tags", "json"),
        Column("expires", "int"),
    ),
    partition=("owner",),
    sort=("id",),
    indexes=(
        IndexSpec("by_kind", ("kind",), ("stamp",)),
        IndexSpec("ByStamp", ("owner",), ("stamp",)),
        IndexSpec("by_text", ("kind",), ("text",)),
    ),
    expires="expires",
)
COUNTERS = Table(
    "suite-counters",
    "Counter",
    columns=(
        Column("name", "text", required=True),
        Column("hits", "int"),
        Column("other", "int"),
        Column("total", "number"),
        Column("ratio", "float"),
        Column("data", "json"),
        Column("tags", "json"),
        Column("text", "text"),
    ),
    partition=("name",),
    sort=(),
)
INTS = Table(
    "suite-ints",
    "Tick",
    columns=(Column("bucket", "int", required=True), Column("n", "int", required=True), Column("text", "text")),
    partition=("bucket",),
    sort=("n",),
)
BYTES = Table(
    "suite-bytes",
    "Chunk",
    columns=(Column("file", "bytes", required=True), Column("part", "bytes", required=True), Column("text", "text")),
    partition=("file",),
    sort=("part",),
)
# Reserved words of SQL as names, because designs have fields called "order" and "group".
WIDE = Table(
    "suite.Wide_Table",
    "Wide",
    columns=(
        Column("tenant", "text", required=True),
        Column("group", "text", required=True),
        Column("day", "int", required=True),
        Column("order", "text", required=True),
        Column("select", "text"),
        Column("from", "int"),
        Column("where", "text"),
    ),
    partition=("tenant", "group"),
    sort=("day", "order"),
    indexes=(IndexSpec("WideSelectIndex", ("tenant", "select"), ("from", "where")),),
)
QUIET = Table(
    "suite-quiet",
    "Quiet",
    columns=(Column("name", "text", required=True), Column("text", "text")),
    partition=("name",),
    sort=(),
    feed=False,
)
# One integer as the whole key: some engines number their rows by it.
NUMBERS = Table(
    "suite-numbers",
    "Number",
    columns=(Column("n", "int", required=True), Column("text", "text")),
    partition=("n",),
    sort=(),
)
TABLES = (NOTES, COUNTERS, INTS, BYTES, WIDE, QUIET, NUMBERS)
BY_NAME = {table.name: table for table in TABLES}


class RecordSuite:
    """What a backend's test class supplies, and the words the tests are written in.

    A backend overrides `make`; the raw accessors if it has a way round itself; `reopen` and `settle` where they mean
    something there. `gaps` names tests that fail for a known reason; each runs as a strict xfail. `chance` names tests
    that a flaw of the backend's server has pass or fail by chance; each is skipped.
    """

    gaps: ClassVar[Mapping[str, str]] = {}
    chance: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        unknown = [name for name in (*cls.gaps, *cls.chance) if not hasattr(cls, name)]
        if unknown:
            raise TypeError(f"{cls.__name__} names no test: {', '.join(unknown)}")

    @asynccontextmanager
    async def make(self, tables: Sequence[Table]) -> AsyncIterator[RecordEngine]:
        """Give an empty engine over these tables, and close it afterwards."""
        raise NotImplementedError
        yield  # pragma: no cover

    async def raw_get(self, engine: Any, at: Address) -> Mapping[str, object] | None:
        """Read the stored columns of one record round the engine; text, integers and bytes as they are."""
        raise NotImplementedError

    async def raw_put(self, engine: Any, table: Table, record: Record) -> None:
        """Store a record of texts and integers, REVISION included, round the engine."""
        raise NotImplementedError

    async def reopen(self, engine: Any) -> RecordEngine:
        """Close the engine and open another on the same data."""
        return engine  # type: ignore[no-any-return]

    async def settle(self, engine: Any) -> None:
        """Return when index reads show everything written before."""

    @pytest.fixture(autouse=True)
    def _known_gap(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", None) or request.node.name
        if name in self.gaps:
            request.node.add_marker(pytest.mark.xfail(reason=self.gaps[name], strict=True))
        if name in self.chance:
            pytest.skip(self.chance[name])

    @pytest.fixture
    async def engine(self) -> AsyncIterator[RecordEngine]:
        async with self.make(TABLES) as engine:
            yield engine

    # --- words ------------------------------------------------------------------------------------------------------

    async def pages(self, engine: RecordEngine, read: Read) -> list[list[Record]]:
        """Return every page of a read, the empty ones included."""
        if read.index is not None:
            await self.settle(engine)
        found: list[list[Record]] = []
        while True:
            page = await engine.query(read)
            found.append(list(page.records))
            if page.last is None:
                return found
            read = read._replace(after=page.last)

    async def all_of(self, engine: RecordEngine, read: Read) -> list[Record]:
        return [record for page in await self.pages(engine, read) for record in page]

    async def counted(self, engine: RecordEngine, read: Read, now_us: int = NOW) -> int:
        if read.index is not None:
            await self.settle(engine)
        return await engine.count(read, now_us)  # type: ignore[attr-defined, no-any-return]

    async def scanned(self, engine: RecordEngine, table: Table, limit: int = 100, segment: tuple[int, int] = (0, 1)) -> list[Record]:
        found: list[Record] = []
        after = None
        while True:
            page = await engine.scan(table.name, after=after, limit=limit, segment=segment)
            found += page.records
            after = page.last
            if after is None:
                return found


def address(table: Table, *key: KeyPart) -> Address:
    return Address(table.name, key)


def note(owner: str, id: str, **fields: Any) -> Record:
    return {"owner": owner, "id": id, **fields}


def guards(*whens: When | Condition, op: int = 0) -> tuple[Guard, ...]:
    """Return guards with the given meanings; a bare condition must hold."""
    return tuple(
        Guard(when if isinstance(when, Absent | Alive | Unchanged | Holds) else Holds(when), Origin(op, f"guard {number}"))
        for number, when in enumerate(whens)
    )


def put(table: Table, record: Record, *whens: When | Condition, released: tuple[str, ...] = ()) -> Put:
    return Put(Address(table.name, position(table, None, record)), record, guards(*whens), released)


def put_note(owner: str, id: str, *whens: When | Condition, **fields: Any) -> Put:
    return put(NOTES, note(owner, id, **fields), *whens)


def update(table: Table, key: tuple[KeyPart, ...], *changes: Change_, when: Sequence[When | Condition] = ()) -> Update:
    return Update(Address(table.name, key), changes, guards(*when))


def delete(table: Table, *key: KeyPart, when: Sequence[When | Condition] = (), expired: bool = False) -> Delete:
    return Delete(Address(table.name, key), guards(*when), expired=expired)


async def attempt(engine: RecordEngine, *ops: Op, now_us: int = NOW, cause: Cause = NOBODY, returning: bool = True) -> Written | Refused:
    """Write, and try again where the engine reports that other writers were faster."""
    while True:
        try:
            return await engine.write(WriteSet(ops, now_us, cause, returning))
        except Conflict:
            continue


async def written(engine: RecordEngine, *ops: Op, now_us: int = NOW, cause: Cause = NOBODY, returning: bool = True) -> Written:
    """Write what must not be refused."""
    done = await attempt(engine, *ops, now_us=now_us, cause=cause, returning=returning)
    assert isinstance(done, Written), f"refused: {[(failure.op, failure.guard.origin.role) for failure in done.failures]}"
    return done


async def loaded(engine: RecordEngine, *puts: Put, now_us: int = NOW, cause: Cause = NOBODY) -> list[int]:
    """Load the records of puts to one table; return their revisions."""
    (table,) = {each.at.table for each in puts}
    return list(await engine.load(table, [each.record for each in puts], now_us, cause))


async def refused(engine: RecordEngine, *ops: Op, now_us: int = NOW) -> Refused:
    """Write what must be refused."""
    done = await attempt(engine, *ops, now_us=now_us)
    assert isinstance(done, Refused), "written, although a guard does not hold"
    return done


async def stored(engine: RecordEngine, table: Table, *key: KeyPart) -> Record | None:
    return (await engine.get([Address(table.name, key)]))[0]


async def all_changes(engine: RecordEngine, after: int | None = None, limit: int = 100) -> list[Change]:
    found: list[Change] = []
    while True:
        page = await engine.changes(after, limit)
        found += page.changes
        if not page.changes:
            return found
        after = page.last


async def head(engine: RecordEngine) -> int:
    return (await engine.changes(None, 1)).head


def bare(record: Record | None) -> Record | None:
    """Return a record without its revision."""
    return None if record is None else {name: value for name, value in record.items() if name != REVISION}


def ids(records: Sequence[Record]) -> list[Any]:
    return [record["id"] for record in records]


def exact(value: Any) -> Any:
    """Return a form in which equal means the same type and content all the way down: 1, 1.0 and True are three."""
    if isinstance(value, dict):
        return {name: exact(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    if isinstance(value, frozenset):
        return ("set", frozenset(map(exact, value)))
    return type(value).__name__, value


def read_notes(owner: str, *bounds: Bound, **options: Any) -> Read:
    return Read(NOTES.name, None, (owner,), bounds=bounds, **options)


def read_kind(kind: str, *bounds: Bound, **options: Any) -> Read:
    return Read(NOTES.name, "by_kind", (kind,), bounds=bounds, **options)
