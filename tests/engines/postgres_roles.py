"""A database that a plain role owns, and a role that people write SQL with: superusers see every row, whatever policies say."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import quote

import asyncpg

from tests import servers

OWNER, SQL = "palaver_owner", "palaver_sql"


@cache
def _passwords(server: servers.Database) -> dict[str, str]:
    made = {OWNER: secrets.token_hex(8), SQL: secrets.token_hex(8)}
    for role, password in made.items():
        known = server.sql(f"SELECT count(*) FROM pg_roles WHERE rolname = '{role}'") != "0"
        server.sql(f"{'ALTER' if known else 'CREATE'} ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{password}'")
    return made


class Owned:
    """One such database; `url` is the owner's unless another role is named."""

    def __init__(self, server: servers.Database) -> None:
        self.server = server
        self.passwords = _passwords(server)
        self.name = server.create_database()
        server.sql(f'ALTER DATABASE "{self.name}" OWNER TO {OWNER}')

    def url(self, role: str = OWNER, **options: str) -> str:
        address = self.server.url(self.name, user=role, password=self.passwords[role])
        given = "&".join(f"{name}={quote(value)}" for name, value in options.items())
        return f"{address}?{given}" if given else address

    def superuser(self, statement: str) -> str:
        return self.server.sql(statement, database=self.name)

    def grant(self, schema: str = "public") -> None:
        """Give the role all that is ever granted: what it does not see then is hidden by policies alone."""
        self.superuser(
            f'GRANT USAGE ON SCHEMA "{schema}" TO {SQL};'
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {SQL};'
            f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO {SQL}'
        )

    @asynccontextmanager
    async def by_sql(self, tenant: str | None = None) -> AsyncIterator[Any]:
        """Connect with the role, for a tenant where one is named."""
        connection = await asyncpg.connect(self.url(SQL))
        try:
            if tenant is not None:
                await connection.execute("SELECT set_config('palaver.tenant', $1, false)", tenant)
            yield connection
        finally:
            await connection.close()

    async def seen(self, tenant: str | None = None, schema: str = "public") -> dict[str, int]:
        """Return how many rows the role sees of each table that has any for it."""
        async with self.by_sql(tenant) as connection:
            counts = {table: await connection.fetchval(f'SELECT count(*) FROM "{schema}"."{table}"') for table in self.tables(schema)}
        return {table: count for table, count in counts.items() if count}

    def tables(self, schema: str = "public") -> list[str]:
        return self.superuser(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' ORDER BY 1").splitlines()

    def drop(self) -> None:
        self.server.drop_database(self.name)
