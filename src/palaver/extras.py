"""Packages that come with an extra: what is said where one is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from palaver.errors import ConfigError

EXTRAS = {
    "asyncpg": ("PostgreSQL", "postgres"),
    "httptools": ("DynamoDB", "dynamodb"),
    "hiredis": ("Redis", "redis"),
    "limits": ("palaver.integrations.limits_storage", "limits"),
    "openfeature": ("palaver.integrations.openfeature", "openfeature"),
}
"""By package: what needs it, and the extra that brings it."""


@contextmanager
def named_extras() -> Iterator[None]:
    """Name the extra where an import inside finds that its package is not installed. Raises ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        what, extra = EXTRAS[package]
        raise ConfigError(f"{what} needs the package {package}.", hint=f'Install it: pip install "palaver[{extra}]".') from None
