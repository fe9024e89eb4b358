"""A database of PostgreSQL for each module that asks for one; a module about another server defines its own `database` and `url`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(scope="module")
def database(postgres18: servers.Database) -> Iterator[str]:
    name = postgres18.create_database()
    yield name
    postgres18.drop_database(name)


@pytest.fixture
def url(postgres18: servers.Database, database: str) -> str:
    return postgres18.url(database)
