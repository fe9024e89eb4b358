"""One demonstration for the whole run, copied for each test, and a way to run commands as a person would."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palaver.cli import run


@dataclass
class Ran:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def problem(self) -> Any:
        return json.loads(self.err.splitlines()[-1])


Palaver = Callable[..., Ran]
SETTINGS = ("PALAVER_PROFILE", "PALAVER_URL", "PALAVER_SCHEMA", "PALAVER_BLUEPRINT", "PALAVER_TENANT", "PALAVER_KEYS", "PALAVER_SEAL_KEYS")


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    assert 0 == run(["demo", "--path", str(path), "--quiet"])
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, with nothing set."""
    for name in list(os.environ):
        if name == "NO_COLOR" or name.removesuffix("_FILE") in SETTINGS:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def demo(demo_file: Path, elsewhere: Path) -> Path:
    """A copy of the demonstration where commands find it by themselves."""
    path = elsewhere / "palaver-demo.db"
    shutil.copy(demo_file, path)
    if Path(f"{demo_file}.blobs").exists():
        shutil.copytree(f"{demo_file}.blobs", f"{path}.blobs")
    return path


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.db"
    assert 0 == run(["demo", "--blueprint", "simple_agent", "--path", str(path), "--quiet"])
    return path


@pytest.fixture
def agent(agent_file: Path, elsewhere: Path) -> Path:
    """A copy of the demonstration of people on several channels where commands find it by themselves."""
    shutil.copy(f"{agent_file}.keys", elsewhere / "palaver-demo.db.keys")
    return Path(shutil.copy(agent_file, elsewhere / "palaver-demo.db"))


@pytest.fixture
def palaver(capfd: pytest.CaptureFixture[str]) -> Palaver:
    def ran(*tokens: object) -> Ran:
        capfd.readouterr()
        code = run([str(token) for token in tokens])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return ran
