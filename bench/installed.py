"""What `pip install palaver` puts on the disk: how many packages, and how many MB (10⁶ bytes) with and without pip's bytecode."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "runtime.txt"
OUR_OWN = "palaver"


def locked(lock: Path = LOCK) -> Iterator[str]:
    """Yield the names the lock of the package's own dependencies holds for an ordinary platform."""
    for line in lock.read_text().splitlines():
        found = re.match(r"([a-z0-9._-]+)==\S+(?: ; (.+?))? \\$", line)
        if found and "== 'emscripten'" not in (found[2] or ""):
            yield found[1]


def size(package: Distribution) -> tuple[int, int]:
    """Return the bytes a package brings, and those of the bytecode that was made of it."""
    brought = compiled = 0
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if path.is_file():
            if path.suffix == ".pyc":
                compiled += path.stat().st_size
            else:
                brought += path.stat().st_size
    return brought, compiled


def here(names: list[str]) -> dict[str, Any]:
    sizes = [size(distribution(name)) for name in names]
    brought = sum(each for each, _ in sizes)
    return {
        "packages": len(names),
        "installed_mb": round(brought / 1e6, 1),
        "with_bytecode_mb": round((brought + sum(each for _, each in sizes)) / 1e6, 1),
    }


def fresh() -> dict[str, Any]:
    """Measure an environment of its own, made from the lock."""
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(LOCK)], check=True)
        subprocess.run([*pip, str(ROOT)], check=True)
        told = subprocess.run([python, __file__, *locked(), OUR_OWN], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(told.stdout)
    return measured


if __name__ == "__main__":
    print(json.dumps(here(sys.argv[1:])))
