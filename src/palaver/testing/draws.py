"""Seeded records, keys, conditions and updates for the machines: few keys, so that writes meet, and hostile values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any, TypeVar

from palaver.expr import Condition, F
from palaver.ops import MARK, Add, Bound, Change_, Read, Remove, Set, Table
from palaver.testing.records.base import BYTES, COUNTERS, INTS, NOTES, QUIET, SECOND, WIDE
from palaver.testing.records.texts import NAUGHTY
from palaver.values import MAX_INT, MIN_INT, KeyPart, Record, canonical

T = TypeVar("T")
OWNERS = ("u", "a'b", "ÿ", "日本")
PARTS = ("a", "ab", "b", "ÿ", "\U0010ffff")
NUMBERS = (0, 1, -1, 7, 10, -256, 2**53 + 1, MAX_INT, MIN_INT)
TABLES_DRAWN = (NOTES,) * 10 + (COUNTERS,) * 5 + (INTS, BYTES, WIDE, WIDE, QUIET)
# Names a path can reach, and names it must not stumble over.
NAMES = ("a", "n", "list", "m", "x", "$", "a.b", "__proto__", '"')
PATHS = ("data.a", "data.n", "data.list", "data.list[0]", "data.list[2]", "data.m", "data.m.x", "data.m.x.y", "tags[0]", "tags[1]")


class Draws:
    """Values from one source of randomness; `texts` grows by what a test hands in."""

    def __init__(self, random: Random, texts: Sequence[str] = ()) -> None:
        self.random = random
        self.texts = texts

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.random() * len(choices))]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def below(self, n: int) -> int:
        return int(self.random.random() * n)

    # --- values -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        if self.chance(0.5):
            return self.one(PARTS)
        if self.texts and self.chance(0.3):
            return self.one(self.texts)
        return self.one(NAUGHTY)

    def integer(self) -> int:
        return self.one(NUMBERS) if self.chance(0.2) else self.below(12) - 4

    def decimal(self) -> Decimal:
        if self.chance(0.6):
            return canonical(Decimal(self.below(2000) - 1000).scaleb(-self.below(4)))
        digits = self.random.getrandbits(126) % 10 ** (1 + self.below(38))
        return canonical(Decimal((int(self.chance(0.5)), tuple(map(int, str(digits))), self.below(120) - 80)))

    def real(self) -> float:
        return self.one((0.0, 1.0, 0.1, -2.5, 1e16, 1e-7, 1 / 3, 123456.789, 1e100))

    def raw(self) -> bytes:
        return self.one((b"", b"\x00", b"a", b"\xff", b"\xff\xff", bytes(range(256))))

    def scalar(self) -> Any:
        common: tuple[Callable[[], Any], ...] = (self.text, self.integer) * 2
        make = self.one((*common, self.decimal, self.real, self.raw, self._fixed))
        return make()

    def _fixed(self) -> Any:
        return self.one((True, False, None))

    def elements(self) -> Any:
        make: Callable[[], Any] = self.one((self.text, self.integer, self.raw))
        return frozenset(make() for _ in range(1 + self.below(4)))

    def inner(self, depth: int = 0) -> Any:
        if depth > 2 or self.chance(0.6):
            return self.scalar()
        return self.container(depth)

    def container(self, depth: int = 0) -> Any:
        kind = self.below(5)
        if kind == 0:
            return self.elements()
        if kind < 3:
            return [self.inner(depth + 1) for _ in range(self.below(4))]
        return {self.one(NAMES): self.inner(depth + 1) for _ in range(self.below(5))}

    def data(self) -> Any:
        if self.chance(0.3):
            return self.container()
        return {"a": self.inner(1), "n": self.integer(), "list": [self.inner(2) for _ in range(self.below(4))], "m": {"x": self.inner(2)}}

    def of_kind(self, kind: str) -> Any:
        makes: dict[str, Callable[[], Any]] = {
            "text": self.text,
            "int": self.integer,
            "float": self.real,
            "bool": lambda: self.chance(0.5),
            "number": self.decimal,
            "bytes": self.raw,
            "json": self.data,
        }
        return makes[kind]()

    def big_text(self) -> str:
        """Return a text near the sizes at which records and pages end."""
        return self.one(("x", "é", "\\", '"')) * self.one((20_000, 100_000, 200_000, 204_700, 409_500, 409_600))

    # --- records ----------------------------------------------------------------------------------------------------

    def table(self) -> Table:
        return self.one(TABLES_DRAWN)

    def partition(self, table: Table) -> tuple[KeyPart, ...]:
        if table is NOTES:
            return (self.one(OWNERS),)
        if table is INTS:
            return (self.one((-1, 7)),)
        if table is BYTES:
            return (self.one((b"\x00", b"\xff")),)
        if table is WIDE:
            return "t", self.one(("g", "g'"))
        return (self.one(PARTS),)

    def sort(self, table: Table) -> tuple[KeyPart, ...]:
        if table is NOTES:
            return (self.one(PARTS) + self.one(PARTS) if self.chance(0.8) else self.text() or "empty",)
        if table is INTS:
            return (self.integer(),)
        if table is BYTES:
            return (self.raw() or b"empty",)
        if table is WIDE:
            return self.one((-1, 2, 10)), self.one(PARTS)
        return ()

    def key(self, table: Table) -> tuple[KeyPart, ...]:
        return self.partition(table) + self.sort(table)

    def index_text(self) -> str:
        return self.one(PARTS)

    def record(self, table: Table, key: tuple[KeyPart, ...], now_us: int) -> Record:
        record: Record = dict(zip(table.key, key, strict=True))
        for column in table.columns:
            if column.name not in record and self.chance(0.45):
                record[column.name] = self.column(table, column.name, column.kind, now_us)
        if table is NOTES and self.chance(0.004):
            record["text"] = self.big_text()[: 400_000 // 2]
            record.pop("kind", None)
        return record

    def column(self, table: Table, name: str, kind: str, now_us: int) -> Any:
        if name == table.expires:
            return now_us // SECOND + self.below(30) - 5
        if name in {part for index in table.indexes for part in index.partition + index.sort} and kind == "text":
            return self.index_text()
        return self.of_kind(kind)

    # --- changes ----------------------------------------------------------------------------------------------------

    def changes(self, table: Table, now_us: int) -> tuple[Change_, ...]:
        return tuple(self.change(table, now_us) for _ in range(self.one((1, 1, 1, 2, 2, 3))))

    def change(self, table: Table, now_us: int) -> Change_:
        columns = [column for column in table.columns if column.name not in table.key]
        column = self.one(columns) if columns else table.columns[0]
        name = F(column.name)
        pick = self.random.random()
        if column.kind == "json" and pick < 0.6:
            return self.inner_change()
        if pick < 0.15:
            return Remove(name)
        if pick < 0.4 and column.kind in ("int", "number", "float"):
            return Add(name, self.of_kind(column.kind))
        if pick < 0.45 and table.expires:
            return Set(F(MARK), now_us) if self.chance(0.6) else Remove(F(MARK))
        others = [other.name for other in columns if other.kind == column.kind]
        if pick < 0.55 and column.name != table.expires and column.kind != "text":
            return Set(name, F(self.one(others)))
        value = self.column(table, column.name, column.kind, now_us)
        if pick < 0.65:
            return Set(name, name.if_absent(value))
        if column.name == "text" and table is not NOTES and self.chance(0.02):
            return Set(name, self.big_text())
        return Set(name, value)

    def inner_change(self) -> Change_:
        path = F(self.one(PATHS))
        pick = self.below(6)
        if pick == 0:
            return Remove(path)
        if pick == 1:
            return Add(path, self.one((1, -3, MAX_INT, Decimal("0.1"), 0.5)))
        if pick == 2:
            return Add(F(self.one(("tags", "data.a"))), self.elements())
        if pick == 3:
            return Set(path, F(self.one(PATHS)))
        if pick == 4:
            list_path = F(self.one(("tags", "data.list")))
            return Set(list_path, list_path.append(self.inner(1)))
        return Set(path, self.inner(1))

    def condition(self, table: Table, depth: int = 0) -> Condition:
        pick = self.random.random()
        if depth < 2 and pick < 0.25:
            left, right = self.condition(table, depth + 1), self.condition(table, depth + 1)
            return left & right if pick < 0.1 else left | right if pick < 0.2 else ~left
        column = self.one(table.columns)
        path = F(self.one(PATHS)) if column.kind == "json" and self.chance(0.7) else F(column.name)
        value = self.of_kind(column.kind) if column.kind != "json" and self.chance(0.7) else self.scalar()
        makes: tuple[Callable[[], Condition], ...] = (
            path.exists,
            path.missing,
            lambda: path == value,
            lambda: path != value,
            lambda: path < value,
            lambda: path >= value,
            lambda: path.contains(value),
            lambda: path.is_in([value, self.scalar(), self.integer()]),
            lambda: path.between(self.integer(), self.integer()),
            lambda: path.starts_with(self.one(PARTS)),
        )
        return self.one(makes)()

    # --- reads ------------------------------------------------------------------------------------------------------

    def read(self) -> Read:
        table = self.table()
        if table.indexes and self.chance(0.5):
            index = self.one(table.indexes)
            partition: tuple[KeyPart, ...] = (self.one(OWNERS) if index.partition == ("owner",) else self.index_text(),)
            if table is WIDE:
                partition = ("t", self.index_text())
            sorts: tuple[KeyPart, ...] = tuple(self.index_text() if name in ("text", "where") else self.integer() for name in index.sort)
            name: str | None = index.name
        else:
            name, partition, sorts = None, self.partition(table), self.sort(table)
        fixed = sorts[: self.below(len(sorts) + 1)]
        bounds: tuple[Bound, ...] = ()
        if len(fixed) < len(sorts):
            bounds = self.bounds(sorts[len(fixed)])
        return Read(table.name, name, partition, fixed, bounds, self.chance(0.4), self.one((1, 2, 3, 5, 100)))

    def bounds(self, value: KeyPart) -> tuple[Bound, ...]:
        kind = self.below(5)
        if kind == 0 and isinstance(value, str):
            return (Bound("prefix", value[:1]),)
        low = Bound(self.one((">", ">=")), value)
        above = min(MAX_INT, value + self.below(9)) if isinstance(value, int) else value + value  # type: ignore[operator]
        high = Bound(self.one(("<", "<=")), above)
        return ((), (low,), (high,), (low, high), ())[kind]
