"""What `palaver doctor` says of row-level security: who is held to it, where it has gaps, and how to close them."""

from __future__ import annotations

from collections.abc import Mapping

from palaver.connections.postgres import Pool
from palaver.connections.postgres_isolation import Secured, secured_tables
from palaver.observing import Finding

CHECK = "row-level security"
CLOSING = "Add ?rls=on to the URL and open it once as the owner of the tables."


async def row_security(pool: Pool, schema: str, tenants: Mapping[str, str]) -> Finding:
    """Judge the tables of a schema, given in quotes; `tenants`: which column says whose a row is, by table, as the server names them."""
    tables = await secured_tables(pool, schema)
    if forced := [table.name for table in tables if table.forced]:
        return Finding(
            CHECK,
            "fail",
            f"it is forced on {_named(forced)}: the owner's rows are filtered too, and the server refuses to load with COPY",
            "ALTER TABLE … NO FORCE ROW LEVEL SECURITY.",
        )
    if not any(table.secured for table in tables):
        return _off(tables, tenants)
    return _gap(tables, tenants) or Finding(
        CHECK, "ok", f"on, for {len(tenants)} tables with tenants; this user sees every tenant, {await _why(pool)}"
    )


def _off(tables: list[Secured], tenants: Mapping[str, str]) -> Finding:
    if not any(table.name in tenants for table in tables):
        return Finding(CHECK, "ok", "off; no table has tenants")
    readers = sorted({reader for table in tables if table.name in tenants for reader in table.readers})
    if readers:
        return Finding(CHECK, "warn", f"off, and {_named(readers)} can reach the rows of every tenant with SQL", CLOSING)
    return Finding(CHECK, "ok", "off; no other role was given a right to the tables with tenants")


def _gap(tables: list[Secured], tenants: Mapping[str, str]) -> Finding | None:
    open_ones = [table for table in tables if not table.secured]
    if open_ones:
        seen = f"it is on, and not for {_named([table.name for table in open_ones])}"
        return Finding(CHECK, "fail" if any(table.readers for table in open_ones) else "warn", seen, CLOSING)
    if without := [table.name for table in tables if table.name in tenants and not table.policed and not table.is_part]:
        return Finding(CHECK, "warn", f"no tenant can be seen by other roles in {_named(without)}: its policy is missing", CLOSING)
    if adding := [f"{policy} on {table.name}" for table in tables for policy in table.adding]:
        return Finding(
            CHECK,
            "warn",
            f"a policy shows other roles more than their tenant's rows: {_named(adding)}",
            "Make it AS RESTRICTIVE, or drop it: DROP POLICY … ON ….",
        )
    return None


async def _why(pool: Pool) -> str:
    ((is_superuser, bypasses),) = await pool.read("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    if is_superuser:
        return "as a superuser"
    return "as a role with BYPASSRLS" if bypasses else "as their owner, or a member of it"


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
