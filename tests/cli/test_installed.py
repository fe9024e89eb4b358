"""`pip install palaver` stays light, and what it brings is enough for the embedded stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bench import installed
from palaver.blobs.objects import ObjectBlobs
from palaver.blobs.opening import open_blobs
from palaver.errors import ConfigError

LOCKED = list(installed.locked())
SOURCE = Path(installed.ROOT / "src" / "palaver")
MOST_PACKAGES = 30
MOST_MB = 45.0


def test_an_installation_is_small() -> None:
    """Counted as the packages bring it: bytecode depends on who installs, and on the Python."""
    ours = sum(file.stat().st_size for file in SOURCE.rglob("*") if file.is_file() and file.suffix != ".pyc")
    assert len(LOCKED) + 1 <= MOST_PACKAGES
    assert installed.here(LOCKED)["installed_mb"] + ours / 1e6 <= MOST_MB


def test_the_lock_holds_what_the_package_asks_for_and_no_extra() -> None:
    project = tomllib.loads((installed.ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert asked <= set(LOCKED)
    extras = {re.split("[<>=]", each)[0] for more in project["optional-dependencies"].values() for each in more}
    assert "obstore" in extras
    assert set() == extras & set(LOCKED)


LIGHT = """
    import sys
    from importlib.machinery import PathFinder

    kept = {*sys.argv.pop(1).split(","), *sys.stdlib_module_names}
    find = PathFinder.find_spec

    def find_kept(name, path=None, target=None):
        top = name.partition(".")[0]
        return find(name, path, target) if top in kept or top.startswith("_sysconfigdata") else None

    PathFinder.find_spec = find_kept
    from palaver.cli import main
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def kept() -> str:
    """The modules of the locked packages, and ours: nothing else can be imported where this is handed in."""
    modules = {name for name, brings in packages_distributions().items() if {each.lower().replace("_", "-") for each in brings} & {*LOCKED}}
    return ",".join(sorted(modules | {"palaver"}))


def light(kept: str, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIGHT), kept, *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_nothing_but_the_locked_packages_runs_the_demo(kept: str, tmp_path: Path) -> None:
    for command in (("demo",), ("stats", "answers"), ("search", "Arsenal"), ("doctor",)):
        done = light(kept, *command, folder=tmp_path)
        assert 0 == done.returncode, done.stderr
        assert done.stdout


@pytest.mark.parametrize("url", ["s3://bucket/bot", "gs://bucket"])
def test_object_storage_says_which_extra_it_needs(kept: str, tmp_path: Path, url: str) -> None:
    (tmp_path / "bot.db").touch()
    done = light(kept, "health", "--url", f"sqlite:///bot.db?blobs={url}", "--blueprint", "baller", folder=tmp_path)
    assert 0 != done.returncode
    assert 'pip install "palaver[s3]"' in json.loads(done.stderr)["hint"]


def test_object_storage_needs_the_extra_in_a_program_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver.blobs.remote.find_spec", lambda name: None)
    for opened in (open_blobs, ObjectBlobs):
        with pytest.raises(ConfigError, match="obstore") as raised:
            opened("s3://bucket" if opened is open_blobs else "gs://bucket")
        assert 'Install it: pip install "palaver[s3]".' == raised.value.hint


IMPORTED = """
import sys
from palaver import {names}
print(*sys.modules)
"""


@pytest.mark.parametrize(
    ("names", "unwanted"),
    [
        ("Entity, Schema", {"asyncio", "palaver.store", "palaver.plan"}),
        ("Entity, Schema, open", {"palaver.explain", "palaver.caching"}),
    ],
)
def test_declaring_and_opening_import_no_more_than_they_need(names: str, unwanted: set[str]) -> None:
    """Counted in modules, as time is the machine's: no engine, no driver, nothing that migrates, shows or caches."""
    done = subprocess.run([sys.executable, "-c", IMPORTED.format(names=names)], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "pydantic" in modules
    assert set() == modules & (unwanted | {"apsw", "genai_prices", "obstore", "rich", "cyclopts", "palaver.evolve", "palaver.migrating"})
    assert [] == [
        module for module in modules if module.startswith(("palaver.records", "palaver.connections", "palaver.cli", "palaver.search."))
    ]
