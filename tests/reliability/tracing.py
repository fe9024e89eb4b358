"""Orders to the victim, and strace attached to its children: to kill them, to make calls fail, or to record them."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.examine import Run

ROOT = Path(__file__).parent.parent.parent
CALLS = ("pwrite64", "fdatasync", "fsync", "rename", "ftruncate", "openat", "write", "unlink")
_CALL = re.compile(r"^(\d+) +(\w+)\(")


@functools.cache
def untraceable() -> str:
    """Return why children cannot be traced here; empty where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "-e", "trace=openat", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"tracing is not permitted: {tried.stderr.strip()[:100]}"
    return ""


@dataclass
class Ended:
    """How one child ended and what it had said by then."""

    status: int
    said: list[Any] = field(default_factory=list)
    log: str = ""

    @property
    def acks(self) -> list[Any]:
        return [line for line in self.said if isinstance(line, list)]

    @property
    def errors(self) -> list[Any]:
        """What went wrong, in the words the caller got."""
        return [line for line in self.said if isinstance(line, dict) and ("error" in line or "ended" in line)]

    def told(self, what: str) -> list[Any]:
        return [line[what] for line in self.said if isinstance(line, dict) and what in line]


class Victims:
    """The process that forks a child for each order. Use it in a `with` block."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.reliability.victim"]
        self.plant = ""
        self._said = Path()
        self._tracer: subprocess.Popen[str] | None = None
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def __enter__(self) -> Victims:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=30)

    def run(self, run: Run, url: str, folder: Path, trace: Sequence[str] = (), **order: Any) -> Ended:
        """Let a child do a workload, traced with these options of strace, and return how it ended."""
        self.start(run, url, folder, trace, **order)
        return self.join()

    def start(self, run: Run, url: str, folder: Path, trace: Sequence[str] = (), **order: Any) -> int:
        """Start a child, one at a time, and return its process id."""
        said, go = folder / "said", folder / "go"
        order = {**asdict(run), "url": url, "said": str(said), "go": str(go), "plant": self.plant, **order}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self._said, self._tracer = said, self._attach(pid, trace) if trace else None
        go.touch()
        return pid

    def join(self) -> Ended:
        """Wait for the child's end and return how it ended."""
        assert self._process.stdout is not None
        status = int(self._process.stdout.readline())
        if self._tracer is not None:
            self._tracer.communicate(timeout=120)
        lines = self._said.read_text().splitlines(keepends=True) if self._said.exists() else []
        log = Path(f"{self._said}.log")
        # A last line without an end was cut by the kill: the store had acknowledged it, but nobody heard it whole.
        return Ended(status, [json.loads(line) for line in lines if line.endswith("\n")], log.read_text() if log.exists() else "")

    def _attach(self, pid: int, trace: Sequence[str]) -> subprocess.Popen[str]:
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(pid), *trace], stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 20
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None, f"the tracer ended: {tracer.communicate()[1]}"
            assert time.monotonic() < until, "the tracer did not attach"
            time.sleep(0.001)
        return tracer


def kill_at(call: str, number: int) -> list[str]:
    """Return the options that kill the process where one of its threads is about to do its n-th call of this kind."""
    return ["-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]


def fail_at(calls: str, error: str, when: str) -> list[str]:
    return ["-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"]


def counted(log: Path) -> dict[str, int]:
    """Return how many calls of each kind the busiest thread made, from a log of strace."""
    found: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if match := _CALL.match(line):
            found[match[2], match[1]] += 1
    most: dict[str, int] = {}
    for (call, _), number in found.items():
        most[call] = max(most.get(call, 0), number)
    return most
