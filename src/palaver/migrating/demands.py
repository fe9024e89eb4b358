"""What a migration demands of stored records, looked at before anything is changed: one scan per table, counts only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Any

from palaver.claims import claim_of
from palaver.clock import Clock, to_us
from palaver.declared import Declared
from palaver.evolve.actions import Demand
from palaver.evolve.forms import passes
from palaver.migrating.filling import computed
from palaver.ops import MARK, REVISION, Address, RecordPage, Table, is_live
from palaver.plan import Planner
from palaver.ports import RecordEngine, ScansAs
from palaver.values import KeyPart, Record

PAGE = 500
EXACT = 2**53


async def pages(records: RecordEngine, table: Table) -> AsyncIterator[RecordPage]:
    """Yield a whole table page by page, as it is stored before anything is done to it."""
    after: tuple[KeyPart, ...] | None = None
    while True:
        if isinstance(records, ScansAs):
            page = await records.scan_as(table, after=after, limit=PAGE)
        else:
            page = await records.scan(table.name, after=after, limit=PAGE)
        yield page
        if page.last is None:
            return
        after = page.last


class Examiner:
    """Counts the stored records that do not fulfil what a migration demands. `where` names tables by their present names."""

    def __init__(self, planner: Planner, records: RecordEngine, clock: Clock, tell: Callable[[str, int], None]) -> None:
        self._planner, self._records, self._clock, self._tell = planner, records, clock, tell
        self._stored: dict[str, Table] = {}

    async def unmet(self, demands: Sequence[Demand], former: dict[str, dict[str, str]]) -> list[str]:
        """Return, in words with counts, what does not hold.

        `former` gives, for a table, the names stored columns have as long as nothing is done, and under "" its own name.
        """
        self._stored = {table.name: table for table in (await self._records.describe()).tables}
        found: list[str] = []
        for name in dict.fromkeys(demand.table for demand in demands):
            mine = [demand for demand in demands if demand.table == name]
            found += await self._table(mine, former.get(name, {}))
        return found

    async def _table(self, demands: Sequence[Demand], former: dict[str, str]) -> list[str]:
        name = former.get("", demands[0].table)
        stored = self._stored.get(name)
        if stored is None:
            return []
        counts = dict.fromkeys(range(len(demands)), 0)
        seen: dict[int, set[bytes]] = {}
        async for page in pages(self._records, stored):
            self._tell(f"look at {name}", len(page.records))
            plain = [{new: record.get(old) for new, old in _names(stored, former).items()} for record in page.records]
            for number, demand in enumerate(demands):
                counts[number] += await self._violations(demand, stored, plain, seen.setdefault(number, set()))
        return [_in_words(demand, counts[number]) for number, demand in enumerate(demands) if counts[number]]

    async def _violations(self, demand: Demand, table: Table, records: Sequence[dict[str, Any]], seen: set[bytes]) -> int:
        match demand.kind:
            case "empty":
                return len(records)
            case "present":
                return sum(record.get(demand.name) is None for record in records)
            case "within":
                return sum(not passes(demand.check, record.get(demand.name)) for record in records)
            case "exact":
                return sum(abs(record.get(demand.name) or 0) > EXACT for record in records)
            case "reads":
                read = _reads(self._declared(demand), demand.name)
                return sum(not read(record.get(demand.name)) for record in records)
            case "distinct":
                return sum(self._taken(demand, table, record, seen) for record in records)
            case "refers":
                return await self._orphans(demand, table, records)

    def _declared(self, demand: Demand) -> Declared:
        return self._planner.schema.tables[demand.table]

    def _taken(self, demand: Demand, table: Table, record: Record, seen: set[bytes]) -> bool:
        """Say whether another live record that was seen holds the same unique values."""
        declared = self._declared(demand)
        if not is_live(table, record, to_us(self._clock.now())):
            return False
        unique = declared.uniques[demand.name]
        if any(part.shadow for part in unique.parts):
            record = _converted(declared, record)
            record.update(computed(self._planner.codec(declared.entity), record))
        claim = claim_of(declared, unique, record, tenant_of(declared, record))
        if claim is None:
            return False
        digest = sha256(str(claim.key[1]).encode()).digest()[:12]
        if digest in seen:
            return True
        seen.add(digest)
        return False

    async def _orphans(self, demand: Demand, table: Table, records: Sequence[dict[str, Any]]) -> int:
        declared = self._declared(demand)
        reference = next(each for each in self._planner.schema.references if each.child is declared and each.ref.name == demand.name)
        parent = reference.parent.table
        if parent.name not in self._stored:
            return len(records)
        now_us = to_us(self._clock.now())
        at: list[Address] = []
        for record in records:
            key: Any = tuple(record.get(declared.fields[name].stored) for name in reference.ref.fields)
            if None not in key and is_live(table, record, now_us):
                tenant: Any = (tenant_of(declared, record),) if reference.parent.tenant else ()
                at.append(Address(parent.name, tenant + key))
        wanted = list(dict.fromkeys(at))
        alive: set[Address] = set()
        for start in range(0, len(wanted), 100):
            some = wanted[start : start + 100]
            stored = await self._records.get(some)
            alive |= {each for each, record in zip(some, stored, strict=True) if is_live(parent, record, now_us)}
        return sum(each not in alive for each in at)


def _converted(declared: Declared, record: Record) -> Record:
    """Return a record with integers as what their columns are about to become."""
    into: dict[str, Callable[[int], Any]] = {"number": Decimal, "float": float}
    kinds = {column.name: into.get(column.kind) for column in declared.table.columns}
    return {name: make(value) if type(value) is int and (make := kinds.get(name)) else value for name, value in record.items()}


def _names(table: Table, former: dict[str, str]) -> dict[str, str]:
    """Return what each stored column will be called, with what it is called now."""
    renamed = {old: new for new, old in former.items() if new}
    names = {renamed.get(column.name, column.name): column.name for column in table.columns}
    return {**names, REVISION: REVISION, MARK: MARK}


def _reads(declared: Declared, column: str) -> Callable[[Any], bool]:
    """Return the function that says whether a declaration reads a stored value, and would write it as it is stored."""
    kind = declared.by_stored[column].kind

    def reads(value: Any) -> bool:
        if value is None:
            return True
        try:
            decoded = value if kind.decode is None else kind.decode(value)
            again = decoded if kind.encode is None else kind.encode(decoded)
        except Exception:
            # A decoder of the application's may raise anything; each such record is counted.
            return False
        return kind.model is not None or bool(again == value)

    return reads


def tenant_of(declared: Declared, record: Record) -> str | None:
    return None if declared.tenant is None else str(record[declared.tenant.stored])


def _in_words(demand: Demand, count: int) -> str:
    where = f"{demand.entity}.{demand.name}"
    several = count != 1
    fields = ", ".join(map(str, demand.check))
    records = f"{count:,} stored record{'s' if several else ''}"
    text = {
        "empty": f"{where} is new and required, and {records} ha{'ve' if several else 's'} no value for it.",
        "present": f"{where} is required now, and {records} lack{'' if several else 's'} it.",
        "within": f"{where} has a value that is no longer allowed in {records}.",
        "exact": f"{where} would lose digits in {records}.",
        "reads": f"{where} cannot be read as it is declared now in {records}.",
        "distinct": f"{where} ({fields}): {records} hold{'' if several else 's'} a value that another one holds.",
        "refers": f"{where}: {records} refer{'' if several else 's'} to one that does not exist.",
    }[demand.kind]
    return f"{text} {demand.hint}".strip()
