"""The tables Palaver keeps for itself: claims to unique values, tokens, jobs, leases and positions; and images of history."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from palaver.declared import Declared
from palaver.ops import Address, Column, IndexSpec, Table
from palaver.values import KeyPart, Value

HISTORY = "-history"

SYSTEM = Table(
    name="palaver_system",
    entity="palaver_system",
    columns=(
        Column("scope", "text", required=True),
        Column("name", "text", required=True),
        Column("body", "json"),
        Column("due", "int"),
        Column("expires", "int"),
    ),
    partition=("scope",),
    sort=("name",),
    indexes=(IndexSpec("palaver_due", ("scope",), ("due",)),),
    expires="expires",
    feed=False,
    swept=False,
)


def history_table(declared: Declared) -> Table:
    """Return the table that keeps images of an entity's records."""
    return Table(
        name=f"{declared.table.name}{HISTORY}",
        entity=f"{declared.name}History",
        columns=(
            Column("record_key", "text", required=True),
            Column("revision", "int", required=True),
            Column("kind", "text", required=True),
            Column("subject", "text" if declared.subject is None else declared.subject.kind.column),
            Column("actor", "text"),
            Column("image", "json"),
            Column("expires", "int", required=True),
        ),
        partition=("record_key",),
        sort=("revision",),
        indexes=(IndexSpec("by_subject", ("subject",), ("revision",)),),
        expires="expires",
        feed=False,
        swept=False,
    )


def history_address(declared: Declared, at: Address, revision: int) -> Address:
    return Address(f"{declared.table.name}{HISTORY}", (key_text(at.key), revision))


def key_text(key: Sequence[KeyPart]) -> str:
    """Return one text for a key: parts with their lengths, so that no two keys share it."""
    return "".join(f"{len(part)}:{part}" for part in (part.hex() if isinstance(part, bytes) else str(part) for part in key))


def system(scope: str, name: str) -> Address:
    return Address(SYSTEM.name, (scope, name))


def job_address(at: Address) -> Address:
    return system("cascade", f"{at.table}/{sha256(key_text(at.key).encode()).hexdigest()}")


def blob_address(key: str) -> Address:
    """Return where the job to remove an object lies."""
    return system("blob", sha256(key.encode()).hexdigest())


def token_address(tenant: str | None, token: str) -> Address:
    """Return where a token is remembered: under a digest. The text itself is kept nowhere."""
    return system("token", sha256(key_text((tenant or "", token)).encode("utf-8", "surrogatepass")).hexdigest())


def plain_key(key: Sequence[KeyPart]) -> list[Value]:
    return [{"hex": part.hex()} if isinstance(part, bytes) else part for part in key]


def key_from_plain(parts: Sequence[Any]) -> tuple[KeyPart, ...]:
    return tuple(bytes.fromhex(part["hex"]) if isinstance(part, dict) else part for part in parts)
