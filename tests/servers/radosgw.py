"""Ceph's object gateway over a cluster of one: a real S3 server that is not Amazon's. Asked for by --radosgw.

The daemons authenticate each other (without that the gateway hangs), and objects are kept in memory: durability is not what is asked here.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
from pathlib import Path
from uuid import uuid4

from tests.servers.emulators import KEY, SECRET, Endpoint
from tests.servers.presence import Absent
from tests.servers.process import Folder, Process, free_port

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
RIGHTS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rwx", "osd": "allow rwx"},
}
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
crash dir = {folder}/crash
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 2147483648
rgw crypt require ssl = false
[mon.a]
mon data = {folder}/mon
[mgr.x]
mgr data = {folder}/mgr
[osd.0]
osd data = {folder}/osd
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


class RadosGateway:
    """Four daemons that start in about 15 seconds; the last of them answers as S3."""

    def __init__(self) -> None:
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise Absent(f"{', '.join(missing)} not installed; install ceph-mon, ceph-mgr, ceph-osd and radosgw")
        self.version = version()
        self._folder = Folder("radosgw")
        self._at = self._folder.path
        self._fsid, self._mon_port, port = str(uuid4()), free_port(), free_port()
        self.endpoint = Endpoint("radosgw", f"http://127.0.0.1:{port}", version=self.version)
        self._prepare(port)
        self._start("ceph-mon", "-i", "a", port=self._mon_port)
        self._ceph("auth", "import", "-i", f"{self._at}/keyring")
        self._start("ceph-mgr", "-i", "x")
        disk = str(uuid4())
        self._ceph("osd", "new", disk, "0")
        self._ceph("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        self._run("ceph-osd", "-c", self._conf, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._start("ceph-osd", "-i", "0")
        made = ("user", "create", "--uid=tests", "--display-name=tests", f"--access-key={KEY}", f"--secret-key={SECRET}")
        self._start("radosgw", "-n", "client.rgw", http_port=port)
        self._run("radosgw-admin", "-c", self._conf, "-n", "client.rgw", *made)

    @property
    def _conf(self) -> str:
        return f"{self._at}/ceph.conf"

    def _prepare(self, port: int) -> None:
        for name in ("mon", "mgr", "osd", "rgw", "crash"):
            (self._at / name).mkdir()
        told = CONFIGURATION.format(fsid=self._fsid, mon_port=self._mon_port, folder=self._at, port=port)
        Path(self._conf).write_text(told, encoding="utf-8")
        for number, (name, rights) in enumerate(RIGHTS.items()):
            given = [part for service, right in rights.items() for part in ("--cap", service, right)]
            made = () if number else ("--create-keyring",)
            self._run("ceph-authtool", *made, f"{self._at}/keyring", "--gen-key", "-n", name, *given)
        address = f"[v1:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, f"{self._at}/monmap")
        files = ("--monmap", f"{self._at}/monmap", "--keyring", f"{self._at}/keyring")
        self._run("ceph-mon", "-c", self._conf, "--mkfs", "-i", "a", *files)

    def _start(self, program: str, *arguments: str, port: int = 0, http_port: int = 0) -> None:
        def ready() -> bool:
            return _listens(port) if port else _answers(http_port) if http_port else True

        found = shutil.which(program)
        assert found is not None
        Process([found, "-c", self._conf, *arguments, "-f"], folder=self._at, ready=ready).start()

    def _ceph(self, *arguments: str) -> None:
        self._run("ceph", "-c", self._conf, "--connect-timeout", "20", *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self._at, capture_output=True, text=True, timeout=90)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr[-1000:]}")


def version() -> str:
    return subprocess.run(["radosgw", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
