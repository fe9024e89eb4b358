"""Servers that speak DynamoDB and S3: each is wrong somewhere, in another place (docs/engines/emulators.md)."""

from __future__ import annotations

import http.client
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.presence import PACKAGES, ROOT, Absent, package_version
from tests.servers.process import Folder, Process, free_port

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where AWS's requests go and who signs them. The address is always told, so that nothing goes to a real account by omission."""

    name: str
    url: str
    region: str = "eu-central-1"
    access_key: str = KEY
    secret_key: str = field(default=SECRET, repr=False)
    session_token: str = field(default="", repr=False)
    version: str = ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 443

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach this endpoint and no other."""
        told = {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        told |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return told | ({"AWS_SESSION_TOKEN": self.session_token} if self.session_token else {})


class Emulator:
    """An emulator of our own; what it stores is gone when it stops, except dynalite's, which is in its folder."""

    def __init__(self, name: str, command: list[str], version: str, *, port: int, environment: dict[str, str] | None = None) -> None:
        self._folder = Folder(name)
        self.version = version
        self.endpoint = Endpoint(name, f"http://127.0.0.1:{port}", version=version)
        told = {key: value.replace("{folder}", str(self._folder.path)) for key, value in (environment or {}).items()}
        line = [part.replace("{folder}", str(self._folder.path)) for part in command]
        self.process = Process(line, folder=self._folder.path, ready=self._ready, environment=told)
        self.process.start()

    @property
    def url(self) -> str:
        return self.endpoint.url

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def kill_9(self) -> None:
        self.process.kill_9()

    def close(self) -> None:
        self.stop()
        self._folder.close()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 600
        except OSError:
            return False
        finally:
            connection.close()


def script(name: str) -> str:
    found = PACKAGES / "bin" / name
    if not found.exists():
        raise Absent(f"{name} is not installed; run: make .venv/.servers")
    return str(found)


def start_ministack(environment: dict[str, str] | None = None) -> Emulator:
    port = free_port()
    told = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "MINISTACK_REGION": "eu-central-1", "LOG_LEVEL": "WARNING"}
    # The account's root, where signatures are checked.
    told |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    told |= {"S3_DATA_DIR": "{folder}/s3", "STATE_DIR": "{folder}/state", "TMPDIR": "{folder}"}
    return Emulator("ministack", [script("ministack")], package_version("ministack"), port=port, environment=told | (environment or {}))


def start_moto() -> Emulator:
    port = free_port()
    command = [script("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    return Emulator("moto", command, package_version("moto"), port=port)


def dynalite_folder() -> Path:
    folder = ROOT / ".venv" / "node" / "node_modules" / "dynalite"
    if shutil.which("node") is None or not folder.is_dir():
        raise Absent("dynalite is not installed; with node and npm there, run: make .venv/.servers")
    return folder


def dynalite_version() -> str:
    return str(json.loads((dynalite_folder() / "package.json").read_text(encoding="utf-8"))["version"])


def start_dynalite() -> Emulator:
    port = free_port()
    command = ["node", str(dynalite_folder() / "cli.js"), "--host", "127.0.0.1", "--port", str(port), "--path", "{folder}/data"]
    return Emulator(
        "dynalite", [*command, "--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"], dynalite_version(), port=port
    )
