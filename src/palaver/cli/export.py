"""`palaver export`: records as files, whole, with a manifest that says what is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import Parameter

from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.declared import Declared
    from palaver.lifecycle.export import Export
    from palaver.store import Store

MANIFEST = "manifest.json"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Form:
    """How records are written, and where to: the options of the command."""

    format: Annotated[Literal["jsonl", "csv"], Parameter(show_default=True)] = "jsonl"
    """JSON Lines, or CSV with nested values as JSON."""
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    """The folder, which must be empty or not there; without one a single entity goes to stdout."""
    without_personal: bool = False
    """Leave personal fields out."""
    objects: bool = False
    """Write large objects too, into objects/ of the folder; without it they stay where they are, and records name them."""


WHOLE = Form()


@emits("export")
async def export(*entities: str, form: Form = WHOLE, here: Here) -> int:
    """Write records to files, whole: one file for each entity, and a manifest with counts and SHA-256 sums.

    Parameters
    ----------
    entities
        Which entities; all of them if none is named.
    """
    from palaver.cli.typed import entity_of

    output = form.output
    async with here.open() as store:
        chosen = [entity_of(store.schema, name) for name in entities] or list(store.schema.entities.values())
        chosen = list({declared.name: declared for declared in chosen}.values())
        if output is None:
            if form.objects:
                raise Stop(Exit.USAGE, "usage", "Large objects need a folder.", hint="Write -o FOLDER.")
            return await _to_stdout(here, store, chosen, form)
        _prepare(output)
        written = [await _to_file(here.out, store, declared, output, form) for declared in chosen]
        manifest = _manifest(here, store, form, written)
    _write_manifest(output, manifest)
    short = [row for row in written if row["records"] < row["counted"]]
    if here.out.json:
        here.out.emit("export", {"folder": str(output), **manifest})
    else:
        here.out.table(
            ("file", "records", "bytes"), [(row["file"], row["records"], row["bytes"]) for row in written], right=("records", "bytes")
        )
        here.out.say(f"{sum(row['records'] for row in written):,} records in {output}, with {MANIFEST}")
    if short:
        here.out.say("note: fewer records than counted first; some were deleted or expired meanwhile.")
    return Exit.OK


async def _to_stdout(here: Context, store: Store, chosen: Sequence[Declared], form: Form) -> int:
    from palaver.lifecycle.export import export as exported

    if len(chosen) != 1:
        raise Stop(Exit.USAGE, "usage", "Several entities need a folder.", hint="Write -o FOLDER, or name one entity.")
    found = await exported(store, chosen[0].entity, format=form.format, personal=not form.without_personal)
    here.out.say(f"{found.count:,} {chosen[0].name} records")
    async for line in found:
        here.out.write(line.decode().rstrip("\r\n"))
    _tell_of(here.out, found)
    return Exit.OK


def _tell_of(out: Output, found: Export) -> None:
    """Say where the bytes of large objects are, and how to get them."""
    if found.large.count and found.objects is None:
        out.say(
            f"note: {found.large.count:,} large objects ({found.large.bytes:,} bytes) stay in the blob store, under the keys that the"
            " records name; with -o FOLDER --objects they are written too."
        )


def _prepare(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Stop(Exit.CONFLICT, "not_empty", f"{folder} is not an empty folder; it was left as it is.", hint="Name another with -o.")
    folder.mkdir(parents=True, exist_ok=True)


async def _to_file(out: Output, store: Store, declared: Declared, folder: Path, form: Form) -> dict[str, Any]:
    from palaver.lifecycle.export import export as exported

    objects = folder if form.objects else None
    found = await exported(store, declared.entity, format=form.format, personal=not form.without_personal, objects=objects)
    out.say(f"{found.count:,} {declared.name} records")
    name = f"{declared.name}.{form.format}"
    with out.progress(name, found.count) as progress, _created(folder / name) as file:
        hashed = _Hashed(file, progress.advance)
        records = await found.write(hashed)
    _tell_of(out, found)
    return {
        "file": name,
        "entity": declared.name,
        "table": declared.table.name,
        "counted": found.count,
        "records": records,
        "objects": found.large.count,
        "object_bytes": found.large.bytes,
        **hashed.seal(),
    }


def _created(path: Path) -> BinaryIO:
    return path.open("xb")


class _Hashed:
    """A file that knows its size and SHA-256."""

    def __init__(self, file: BinaryIO, advance: Any) -> None:
        self._file, self._advance = file, advance
        self._hash, self._size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)
        self._advance()

    def seal(self) -> dict[str, Any]:
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}


def _manifest(here: Context, store: Store, form: Form, written: list[dict[str, Any]]) -> dict[str, Any]:
    from palaver import __version__

    return {
        "palaver": __version__,
        "schema": store.schema.name,
        "schema_version": store.schema.version,
        "fingerprint": store.schema.fingerprint,
        "made": store.clock.now().isoformat(timespec="seconds"),
        "tenant": here.settings["tenant"].value,
        "format": form.format,
        "personal": not form.without_personal,
        "files": written,
    }


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
