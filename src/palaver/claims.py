"""Claims to unique values: a record of its own for each, taken, moved and given up in the write of the record that has the values."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from palaver.declared import Declared, UniqueSpec
from palaver.draft import Draft
from palaver.expr import evaluate
from palaver.ops import Absent, Address, Delete, Guard, Origin, Put, is_live
from palaver.system import key_text, plain_key, system
from palaver.tenants import tenant_key
from palaver.values import KeyPart, Record

LONG = 256


def claim_to(declared: Declared, unique: UniqueSpec, values: Sequence[KeyPart], tenant: str | None) -> Address:
    """Return where the claim to these values lies, whoever holds it."""
    digest = sha256(key_text(values).encode()).hexdigest()
    return system("unique", f"{_owner(*tenant_key(declared, tenant))}/{declared.name}/{unique.name}/{digest}")


def _owner(tenant: KeyPart = "") -> str:
    """Return a tenant as a part of a claim's name, which takes no more than a sort key may."""
    name = str(tenant)
    # Only what was shortened begins with the sign, so nobody can be called like somebody's hash.
    return f"#{sha256(name.encode()).hexdigest()}" if len(name.encode()) > LONG or name.startswith("#") else name


def claim_of(declared: Declared, unique: UniqueSpec, record: Record | None, tenant: str | None) -> Address | None:
    """Return where a record's claim to its unique values lies; None where it claims none."""
    if record is None or (unique.when is not None and not evaluate(declared.entity.bind(unique.when), record)):
        return None
    values: Any = tuple(record.get(part.column) for part in unique.parts)
    return None if None in values else claim_to(declared, unique, values, tenant)


def reserve(draft: Draft, number: int, declared: Declared, unique: UniqueSpec, at: Address, old: Record | None, new: Record | None) -> None:
    """Add what becomes of a record's claim when it is written; `new` None: when it is deleted."""
    # The claim of an expired record ends with it, and somebody else may hold the same one by now.
    before = claim_of(declared, unique, old, draft.tenant) if is_live(declared.table, old, draft.now_us) else None
    after = claim_of(declared, unique, new, draft.tenant)
    stored = declared.expires.stored if declared.expires else ""
    expires = new.get(stored) if new is not None else None
    if before == after and (before is None or old is None or old.get(stored) == expires):
        return
    what = f"{declared.name}.{unique.name}"
    if before is not None and before != after:
        draft.claim(Delete(before), what)
    if after is not None:
        guards = () if before == after else (Guard(Absent(), Origin(number, f"unique:{unique.name}")),)
        record: Record = {"scope": "unique", "name": after.key[1], "body": {"table": at.table, "key": plain_key(at.key)}}
        if expires is not None:
            record["expires"] = expires
        draft.claim(Put(after, record, guards), what)
