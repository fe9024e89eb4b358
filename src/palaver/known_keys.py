"""Which keys something in a database may be sealed with, by their ids: kept with the data, so that a missing key is missed at opening.

A key is remembered before the first write that holds a value sealed with it, and not before: who opens a database and seals
nothing leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palaver.errors import ConfigError, Conflict
from palaver.ops import Guard, Op, Origin, Put, Set, Unchanged, Update, WriteSet, Written, revision_of
from palaver.ports import RecordEngine
from palaver.sealing import VARIABLE, Sealer, key_id
from palaver.system import SYSTEM, system
from palaver.values import Record

KNOWN = system("key", "seal")
ATTEMPTS = 5


async def known(records: RecordEngine) -> list[str]:
    """Return the ids of the keys that something in a database may be sealed with."""
    if all(table.name != SYSTEM.name for table in (await records.describe()).tables):
        return []
    return ids_of((await records.get((KNOWN,)))[0])


async def check_keys(records: RecordEngine, sealer: Sealer) -> None:
    """Raise ConfigError where something in a database may be sealed with a key that is not here."""
    _check(ids_of((await records.get((KNOWN,)))[0]), sealer)


async def before_ops(records: RecordEngine, now_us: int, sealer: Sealer | None, ops: Iterable[Op]) -> None:
    """Remember the key that seals where these ops, which are about to be written, hold something sealed with it; see `remember_key`."""
    if sealer is not None and not sealer.remembered and _is_in(sealer.first, (value for op in ops for value in _values(op))):
        await remember_key(records, now_us, sealer)


async def before_records(records: RecordEngine, now_us: int, sealer: Sealer | None, about_to_be: Iterable[Record]) -> None:
    """Do the same for records that are about to be loaded."""
    if sealer is not None and not sealer.remembered and _is_in(sealer.first, (value for each in about_to_be for value in each.values())):
        await remember_key(records, now_us, sealer)


async def remember_key(records: RecordEngine, now_us: int, sealer: Sealer) -> None:
    """Note the key that seals with the data, durably.

    Raises ConfigError where meanwhile something was sealed with a key that is not here, Conflict where others kept noting keys.
    """
    for _ in range(ATTEMPTS):
        record = (await records.get((KNOWN,)))[0]
        ids = ids_of(record)
        _check(ids, sealer)
        if sealer.remembered or await write_known(records, now_us, [*ids, sealer.first], record):
            sealer.remembered = True
            return
    raise _contended()


async def remember_ids(records: RecordEngine, now_us: int, ids: Iterable[str]) -> None:
    """Add to the keys that something in a database may be sealed with, whether or not they are here."""
    for _ in range(ATTEMPTS):
        record = (await records.get((KNOWN,)))[0]
        there = ids_of(record)
        more = [each for each in ids if each not in there]
        if not more or await write_known(records, now_us, [*there, *more], record):
            return
    raise _contended()


async def write_known(records: RecordEngine, now_us: int, ids: list[str], old: Record | None) -> bool:
    """Note which keys are in use, if nobody else did meanwhile."""
    body: Any = {"ids": ids}
    guard = Guard(Unchanged(revision_of(old) if old else None), Origin(0, "key"))
    put = Put(KNOWN, {"scope": KNOWN.key[0], "name": KNOWN.key[1], "body": body}, (guard,))
    return isinstance(await records.write(WriteSet((put,), now_us)), Written)


def _check(ids: list[str], sealer: Sealer) -> None:
    missing = [each for each in ids if each not in sealer.ids]
    if missing:
        raise ConfigError(
            f"The database holds secrets sealed with key {missing[0]}, which is not here.",
            hint=f"Add that key to {VARIABLE}; the first one seals, every one opens.",
        )
    sealer.remembered = sealer.first in ids


def _values(op: Op) -> Iterator[Any]:
    if isinstance(op, Put):
        yield from op.record.values()
    elif isinstance(op, Update):
        yield from (change.to for change in op.changes if isinstance(change, Set))


def _is_in(name: str, values: Iterable[Any]) -> bool:
    """Say whether a value is sealed with a key, or is an image that holds one."""
    return any(key_id(each) == name for value in values for each in (value.values() if isinstance(value, Mapping) else (value,)))


def ids_of(record: Record | None) -> list[str]:
    """Return the ids in what is stored at KNOWN."""
    body: Any = record["body"] if record else {}
    return list(body.get("ids", ()))


def _contended() -> Conflict:
    return Conflict("Other processes kept changing which keys are known.", hint="Try again.")
