"""What a PostgreSQL URL may ask for beside server, user and database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
            # Rows that a policy hides from this user are an error, and never silently absent.
            "row_security": "off",
            # Compiling a statement costs more than any of ours takes.
            "jit": "off",
        }
