"""What a PostgreSQL URL may ask for beside server, user and database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palaver.errors import ConfigError

LONGEST_NAME = 63
"""Bytes of a name that the server keeps; it cuts off what is beyond."""


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`pooler`: "transaction" where PgBouncer or the like stands between, "none", or "auto" to find out.

    `timeout_s` ends a statement on the server; `wait_s` is how long a call waits for a free connection. `rls` closes what is
    made to other roles, but for the rows of the tenant they set.
    """

    schema: str = "public"
    size: int = 8
    pooler: Literal["auto", "transaction", "none"] = "auto"
    timeout_s: float = 30.0
    wait_s: float = 10.0
    connect_timeout_s: float = 5.0
    rls: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.schema.encode()) <= LONGEST_NAME or "\0" in self.schema:
            raise ConfigError(f"A schema's name takes 1 to {LONGEST_NAME} bytes.", hint="Give it another name in the URL.")

    @property
    def command_timeout_s(self) -> float:
        """When the client gives up: later than the server, whose answer says that nothing was written."""
        return self.timeout_s + 5

    def settings(self) -> dict[str, str]:
        """Return what is set at connecting, as part of the connection: a pooler refuses these."""
        return {
            "application_name": "palaver",
            "statement_timeout": str(int(self.timeout_s * 1000)),
            "idle_in_transaction_session_timeout": str(int(self.timeout_s * 1000)),
            # Whatever the role or the database has set: one statement is to see what was committed before it.
            "default_transaction_isolation": "read committed",
            "standard_conforming_strings": "on",
            # Rows that a policy hides from this user are an error, and never silently absent.
            "row_security": "off",
            # Compiling a statement costs more than any of ours takes.
            "jit": "off",
        }
