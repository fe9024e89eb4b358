"""Where the keys of secret fields come from: `PALAVER_SEAL_KEYS` (or `…_FILE`), and for one SQLite file a file of keys beside it.

Which of them a database remembers is in known_keys.py.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from palaver.environment import file_of
from palaver.errors import ConfigError
from palaver.known_keys import known
from palaver.ports import RecordEngine
from palaver.schema import Schema
from palaver.sealing import VARIABLE, Sealer, new_key, sealer_of
from palaver.url import Url


def has_secrets(schema: Schema) -> bool:
    return any(declared.secrets for declared in schema.entities.values())


def refuse_unsealable(schema: Schema, url: Url) -> None:
    """Say what is not installed before anything is made; who only looks may do without it."""
    if has_secrets(schema) and not _is_read_only(url):
        sealer_of([new_key()])


async def sealer_for(schema: Schema, url: Url, records: RecordEngine, *, required: bool = True, migrating: bool = False) -> Sealer | None:
    """Return what the secrets of a schema are sealed with on a stack; None for a schema that has none.

    Where it is `migrating`, what is stored may be sealed although the schema says no more that it is.

    Raises ConfigError where there is no key. A SQLite file that never had one is given one, in a file beside it; the memory
    stack, which outlives no process, is given one that does not either. Where keys are not `required`, nothing is made or missed.
    """
    if not has_secrets(schema) and not (migrating and await known(records)):
        return None
    keys = list(_given())
    file = keys_beside(url.path) if url.scheme == "sqlite" else None
    if file is not None and file.exists():
        keys += _kept(file)
    if keys or not required:
        return sealer_of(keys) if keys else None
    if url.scheme == "memory":
        return sealer_of([new_key()])
    what = f"Schema {schema.name} has secret fields, and there is no key to seal them with."
    if file is None:
        raise ConfigError(what, hint=f"Set {VARIABLE} to what `palaver keys new` prints, and keep it as long as the data.")
    if sealed_with := await known(records):
        raise ConfigError(
            f"The database holds secrets sealed with key {sealed_with[0]}, and {file.name} is not beside it.",
            hint=f"Put the file back, or set {VARIABLE}.",
        )
    if _is_read_only(url):
        return None
    sealer_of([new_key()])  # says what is not installed before a file is left behind
    _make(file)
    return sealer_of(_kept(file))


def keys_beside(path: str) -> Path:
    """Return the file of keys of a database file: beside it, with its name."""
    file = Path(path)
    return file.with_name(file.name + ".keys")


def _is_read_only(url: Url) -> bool:
    return url.options.get("read_only", "").lower() in ("1", "true", "yes", "on")


def _given() -> Iterator[str]:
    """Return the keys of the environment: of the variable, or of the file its `_FILE` variant names."""
    named = file_of(VARIABLE)
    return _configured(os.environ.get(VARIABLE, "") if named is None else ",".join(_kept(named)))


def _configured(text: str) -> Iterator[str]:
    for entry in text.replace(",", " ").split():
        if entry.startswith("file:"):
            yield from _kept(Path(entry.removeprefix("file:")))
        else:
            yield entry


def _kept(file: Path) -> list[str]:
    """Return the keys in a file, one a line. Raises ConfigError where it cannot be read, or others than its owner can."""
    try:
        text, mode = file.read_text(encoding="ascii", errors="replace"), file.stat().st_mode
    except OSError as error:
        raise ConfigError(f"The keys in {file.name} cannot be read: {error.strerror}.", hint="Check the path and its owner.") from None
    if os.name == "posix" and mode & 0o077 and file.stat().st_uid == os.getuid():
        raise ConfigError(f"{file.name} holds keys, and others than its owner may read it.", hint=f"chmod 600 {file.name}")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _make(file: Path) -> None:
    """Make a file with a new key, whole or not at all; where another process was faster, its file stays."""
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(6)}")
    try:
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(number, "w", encoding="ascii") as out:
                out.write(
                    f"# The keys of the secrets in {file.name.removesuffix('.keys')}. Without them nobody reads those again.\n{new_key()}\n"
                )
                out.flush()
                os.fsync(out.fileno())
            os.link(fresh, file)
        except FileExistsError:
            return
        finally:
            fresh.unlink()
        _synced(file.parent)
    except OSError as error:
        raise ConfigError(f"{file.name} cannot be made: {error.strerror}.", hint=f"Make the folder writable, or set {VARIABLE}.") from None


def _synced(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
