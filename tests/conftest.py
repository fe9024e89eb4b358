"""What every test may use, and the header that says which engines the run covers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings

from tests import servers
from tests.servers import account as real
from tests.servers.presence import Once, optional

# A slow machine is not a failing property; what a property may take is measured by the benchmarks.
settings.register_profile("palaver", deadline=None, print_blob=True)
settings.load_profile("palaver")

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files instead of comparing with them")
    parser.addoption("--radosgw", action="store_true", help="run the S3 suite on Ceph's object gateway, too")
    parser.addoption(
        "--aws", action="store_true", help="run the DynamoDB and S3 suites on the real account that PALAVER_TEST_AWS_* name, too"
    )


def pytest_configure(config: pytest.Config) -> None:
    real.close_the_way(os.environ)
    if config.getoption("--radosgw"):
        optional.add("radosgw")
    if config.getoption("--aws"):
        try:
            real.ask()
        except servers.Absent as error:
            raise pytest.UsageError(str(error)) from None


def pytest_collection_finish(session: pytest.Session) -> None:
    if real.allowed() and not session.config.getoption("--collect-only") and any("aws-" in item.nodeid for item in session.items):
        try:
            real.check()
        except servers.Failed as error:
            # Once and in a line, instead of in each of hundreds of tests.
            raise pytest.UsageError(str(error)) from None


def pytest_report_collectionfinish(items: list[pytest.Item]) -> list[str]:
    return [f"on the real account: {sum('aws-' in item.nodeid for item in items)} tests"] if real.allowed() else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--rewrite-golden"):
        items[:] = [item for item in items if "golden" in getattr(item, "fixturenames", ())]


def pytest_report_header() -> list[str]:
    versions = {"memory": "", "sqlite": f" {apsw.sqlite_lib_version()}"}
    built = importlib.util.find_spec("palaver.records") is not None
    engines = [name + version for name, version in versions.items() if built and importlib.util.find_spec(f"palaver.records.{name}")]
    found = [f"{name} {version}" for name, version in servers.there().items()]
    lines = [f"engines: {', '.join(engines) or 'none'}", f"servers: {', '.join(found)}"]
    return [*lines, real.told()] if real.allowed() else lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers"] = dict(Once.used)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over which servers one of several processes used."""
    Once.used.update(getattr(node, "workeroutput", {}).get("servers", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if Once.used:
        used = ", ".join(f"{name} {version}" for name, version in sorted(Once.used.items()))
        terminalreporter.write_line(f"servers used: {used}")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Have each test leave behind what it found of settings and accounts."""
    before = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "PALAVER_"))}
    yield
    for name in [name for name in os.environ if name.startswith(("AWS_", "PALAVER_"))]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def postgres18() -> servers.Database:
    return servers.postgres18()


@pytest.fixture(scope="session")
def postgres15() -> servers.Database:
    return servers.postgres15()


@pytest.fixture(scope="session")
def pgbouncer() -> servers.PgBouncer:
    return servers.pgbouncer()


@pytest.fixture(scope="session")
def ministack() -> servers.Emulator:
    return servers.ministack()


@pytest.fixture(scope="session")
def moto() -> servers.Emulator:
    return servers.moto()


@pytest.fixture(scope="session")
def dynalite() -> servers.Emulator:
    return servers.dynalite()


@pytest.fixture(scope="session")
def redis() -> servers.Redis | servers.ExternalRedis:
    return servers.redis()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input data, which is not part of the project."""
    folder = Path(os.environ.get("PALAVER_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("shared data folder not beside the project; name it with PALAVER_SHARED_DATA")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name under tests/golden, or write it under --rewrite-golden."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if request.config.getoption("--rewrite-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.exists(), f"there is no golden file {name}; run: make golden"
        assert file.read_text(encoding="utf-8") == text

    return compare
