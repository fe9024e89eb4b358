"""Whose a record is: the tenant comes first in every key, and a store is bound to one."""

from __future__ import annotations

from palaver.declared import Declared
from palaver.entity import Entity
from palaver.errors import TenantMismatch
from palaver.values import KeyPart


def tenant_key(declared: Declared, tenant: str | None) -> tuple[KeyPart, ...]:
    """Return what the keys of an entity begin with. Raises TenantMismatch for a store that is bound to no tenant."""
    if declared.tenant is None:
        return ()
    if tenant is None:
        raise TenantMismatch(
            f"{declared.name} belongs to tenants and this store is bound to none.", hint="Use store.for_tenant(…).", entity=declared.name
        )
    return (tenant,)


def bind_tenant(declared: Declared, entity: Entity, tenant: str | None) -> None:
    """Refuse a record of another tenant."""
    assert declared.tenant is not None
    if getattr(entity, declared.tenant.name) != tenant:
        raise foreign(declared)


def foreign(declared: Declared) -> TenantMismatch:
    """Return the error for a record, or its address, that is given to a store of another tenant."""
    return TenantMismatch(
        f"This {declared.name} belongs to another tenant than the store.",
        hint="Use store.for_tenant(…) with its tenant.",
        entity=declared.name,
    )
