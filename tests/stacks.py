"""The stacks that everything above the ports is tested on: a URL of a fresh, empty one for each test.

PostgreSQL gives each test a schema of one database, DynamoDB a prefix on the emulator that has everything; their servers start at
the first test that asks. What they cannot hold is in the test's folder. A folder of tests imports the fixtures into its conftest.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests import servers

NAMES = ("memory", "sqlite", "postgresql", "dynamodb")
_NUMBERS = count()
SEAL_KEYS = "dGhlIHRlc3RzIHNlYWwgd2l0aCB0aGlzIG9uZSBrZXk"
"""What secrets are sealed with where no file beside the database holds a key: 32 bytes anybody may know."""


@cache
def database() -> str:
    """The address of the database whose schemas the tests are given; one for the whole run."""
    server = servers.postgres18()
    return server.url(server.create_database())


def fresh(
    stack: str, folder: Path, environ: MutableMapping[str, str] = os.environ, *, blobs: str | None = None, named_plainly: bool = False
) -> str:
    """Return the URL of a stack that holds nothing yet. `blobs`: where its objects are; in the folder, or in memory, unless named.

    `named_plainly`: tables have no prefix, and lie in the schema `public`.
    """
    if stack in ("postgresql", "dynamodb"):
        environ["PALAVER_SEAL_KEYS"] = SEAL_KEYS
    match stack:
        case "memory":
            return f"memory:?blobs={quote(blobs)}" if blobs else "memory:"
        case "sqlite":
            return f"sqlite:///{folder}/store.db?sync=normal" + (f"&blobs={quote(blobs)}" if blobs else "")
        case "postgresql":
            server = servers.postgres18()
            address = server.url(server.create_database()) if named_plainly else database()
            options = {
                "schema": "public" if named_plainly else f"test {next(_NUMBERS)}",
                "pool": "4",
                "blobs": blobs or f"file:{folder}/blobs",
            }
            return f"{address}?{urlencode(options)}"
        case "dynamodb":
            endpoint = servers.ministack().endpoint
            environ.update(endpoint.environment)
            options = {
                "endpoint": endpoint.url,
                "blobs": blobs or f"file:{folder}/blobs",
                "search": f"sqlite:///{folder}/search.db?sync=normal",
            }
            # The tests have clocks of their own, and the emulator removes what has expired by the real one.
            options["expiry"] = "swept"
            # Regions share no tables, so a plain name is nobody else's in a region of its own.
            place = f"test-region-{next(_NUMBERS)}" if named_plainly else f"{endpoint.region}/test{next(_NUMBERS)}-"
            return f"dynamodb://{place}?{urlencode(options)}"
    raise ValueError(f"there is no stack {stack}")


@pytest.fixture(params=NAMES)
def stack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects() -> str | None:
    """Where objects are, for tests to say otherwise."""
    return None


@pytest.fixture
def url(stack: str, objects: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    environ: dict[str, str] = {}
    made = fresh(stack, tmp_path, environ, blobs=objects)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return made
