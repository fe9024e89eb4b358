"""One server as a process: a folder on a real disk, a port of its own, and a guard that ends it with the tests."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

GUARD = Path(__file__).with_name("guard.py")
# /tmp is memory on many systems, and what a durable write costs is part of what is tested.
DISK = Path(os.environ.get("PALAVER_TEST_FOLDER") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()))
PATIENCE = 30.0


class Failed(Exception):
    """A server did not come up; the text ends with what it wrote."""


def free_port() -> int:
    """A port nobody listens on, below those the system hands to outgoing connections: a server that restarts finds it still free."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Folder:
    """A temporary folder that belongs to the given user; it goes when it is closed, and when the process ends."""

    def __init__(self, name: str, user: str = "") -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"palaver-{name}-", dir=DISK))
        if user:
            shutil.chown(self.path, user)
        atexit.register(self.close)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        atexit.unregister(self.close)


class Process:
    """A server that can be started, stopped and killed again and again on the same folder.

    `ready` is asked until it says yes. The guard is a process between this one and the server: see `guard.py`.
    """

    def __init__(
        self,
        command: list[str],
        *,
        folder: Path,
        ready: Callable[[], bool],
        user: str = "",
        environment: dict[str, str] | None = None,
        polite: int = SIGTERM,
    ) -> None:
        self.command, self.folder, self.ready, self.user, self.polite = command, folder, ready, user, polite
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PG"))} | (environment or {})
        self._guard: subprocess.Popen[str] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the server and wait until it answers. Raises Failed with the end of its log."""
        if self._guard is not None:
            return
        line = [sys.executable, "-I", str(GUARD), str(self.folder), self.user, str(int(self.polite)), *self.command]
        pipe = subprocess.PIPE
        self._guard = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, env=self.environment, start_new_session=True)
        atexit.register(self.stop)
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)
        deadline = time.monotonic() + PATIENCE
        while self.pid and self.running() and time.monotonic() < deadline:
            if self.ready():
                return
            time.sleep(0.02)
        self.stop()
        raise Failed(f"{Path(self.command[0]).name} did not come up: …{self.log()[-2000:]}")

    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server politely, and wait until it is gone; its folder stays."""
        self._order("stop")

    def kill_9(self) -> None:
        """Kill the server and the processes it made, at once; its folder stays as they left it."""
        self._order("kill")

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def _order(self, order: str) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        atexit.unregister(self.stop)
        guard.communicate(order + "\n")


def unprivileged() -> str:
    """The user a server runs as that refuses to be root: nobody else when we are not root ourselves."""
    if os.geteuid() != 0:
        return ""
    known = {line.split(":")[0] for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines()}
    return "postgres" if "postgres" in known else "nobody"
