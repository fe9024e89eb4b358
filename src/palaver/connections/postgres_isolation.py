"""Row-level security of one schema: another role sees the rows of the tenant it names, and nothing of any other table of ours.

Whoever owns the tables is not held to it, nor who is a member of the owner or has BYPASSRLS: Palaver serves every tenant, and
loads with COPY, which the server refuses to a role whose rows are filtered. FORCE would filter the owner's, so it is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from palaver.connections.postgres import Connection, Pool
from palaver.errors import Forbidden

SETTING = "palaver.tenant"
POLICY = "palaver_tenant"
_LOCK = 0x70616C_69736F6C
# A part of a table is closed as the table is; whoever names it by itself sees nothing, since policies are the table's.
# Asked for once, it holds for what is made later too, by whichever URL: these two tables remember it.
_REMEMBERS = ("palaver_changes", "search.indexes")
_OURS = r"""
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND (c.relname LIKE 'palaver\_%' OR c.relname LIKE 'search.%'
  OR obj_description(coalesce(i.inhparent, c.oid), 'pg_class') LIKE '{%"palaver":%')
"""
_TABLES = f"""
SELECT c.relname, c.relrowsecurity,
  EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = '{POLICY}') AS policed,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
{_OURS} ORDER BY c.relname
"""
_SECURED = f"""
SELECT c.relname, i.inhrelid IS NOT NULL AS is_part, c.relrowsecurity, c.relforcerowsecurity,
  EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = '{POLICY}') AS policed,
  ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polname <> '{POLICY}') AS adding,
  ARRAY(SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'everybody' ELSE r.rolname::text END FROM aclexplode(c.relacl) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> c.relowner
      AND NOT coalesce(r.rolsuper OR r.rolbypassrls, false)) AS readers
{_OURS} ORDER BY c.relname
"""
_HIDDEN = f"SELECT coalesce(bool_or(row_security_active(c.oid)), false) {_OURS}"


class Secured(NamedTuple):
    """A table as row-level security has it. `adding`: other policies that show more rows; `readers`: roles it was granted to."""

    name: str
    is_part: bool
    secured: bool
    forced: bool
    policed: bool
    adding: list[str]
    readers: list[str]


async def secured_tables(pool: Pool, schema: str) -> list[Secured]:
    """Return every table of ours in a schema, which stands in quotes."""
    return [Secured(*row) for row in await pool.read(_SECURED, schema)]


async def isolate(pool: Pool, tenants: Mapping[str, str]) -> None:
    """Close every table of ours in the pool's schema to other roles, but for the rows of the tenant they set; done before is no error.

    `tenants`: which column says whose a row is, by table, both as the server names them. In one commit.
    Raises Forbidden where something is to be done and the user does not own the tables.
    """
    schema = _quoted(pool.options.schema)
    async with pool.transaction() as connection:
        await protect(connection, schema, tenants, begin=True)


async def protect(connection: Connection, schema: str, tenants: Mapping[str, str], *, begin: bool) -> None:
    """Do what `isolate` does inside a transaction; unless it is to `begin`, only where it was begun before. `schema` stands in quotes."""
    if await _lacking(connection, schema, tenants, begin):
        # Whoever opens at the same time must not make them too.
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        if texts := await _lacking(connection, schema, tenants, begin):
            await connection.execute(";\n".join(texts))


async def _lacking(connection: Connection, schema: str, tenants: Mapping[str, str], begin: bool) -> list[str]:
    tables = await connection.fetch(_TABLES, schema)
    texts: list[str] = []
    if not begin and not any(secured for name, secured, _, _ in tables if name in _REMEMBERS):
        return texts
    for name, secured, policed, columns in tables:
        table, column = f"{schema}.{_quoted(name)}", tenants.get(name)
        if not secured:
            texts.append(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        # A column that a migration has yet to make leaves the table closed until then.
        if column is not None and column in columns and not policed:
            texts.append(policy(table, column))
    return texts


def policy(table: str, column: str) -> str:
    """Return the statement that lets other roles see and write the rows of the tenant they set; without the setting, none."""
    same = f"{_quoted(column)} = current_setting('{SETTING}', true)"
    return f"CREATE POLICY {POLICY} ON {table} USING ({same}) WITH CHECK ({same})"


def without_policy(table: str) -> str:
    """Return the statement that takes the policy away, for as long as a column it reads is being altered."""
    return f"DROP POLICY IF EXISTS {POLICY} ON {table}"


async def refuse_hidden(connection: Connection, schema: str) -> None:
    """Raise Forbidden where this user would not see every row: what is hidden would count as absent."""
    if await connection.fetchval(_HIDDEN, schema):
        raise Forbidden(
            "Row-level security hides records from this database user.",
            hint="Use the owner of the tables, a member of it, or a role with BYPASSRLS; never FORCE ROW LEVEL SECURITY.",
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
