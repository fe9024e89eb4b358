"""Writes docs/reliability.md from what the long runs left: `reliability.py` rewrites it, `--check` says whether it is stale.

`make soak` makes the figures anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tests" / "reliability" / "results.json"
PAGE = ROOT / "docs" / "reliability.md"
Figures = Mapping[str, Any]


def intro() -> Iterator[str]:
    yield "# Reliability"
    yield (
        "What happens to your data when a process is killed, the power goes, the disk fails or is full, and when several processes "
        "write one file. Every figure comes from a run of the real store on the embedded stack (SQLite with full text, and a folder "
        "of objects). `make test` runs a short version of each proof, `make soak` the long one, "
        "which leaves the figures for this page."
    )


def kill(figures: Figures) -> Iterator[str]:
    yield "## A process is killed"
    yield (
        "A process creates, changes and deletes records in concurrent tasks: batches of two, moves between accounts, parents with "
        "their children, large values, full text, sweeps. It is killed with SIGKILL right before a chosen call to the operating "
        "system, and the file is opened again. Each worker must then be exactly after the last step it heard of, or after the one "
        "that was under way; the search index and the objects must fit the records."
    )
    yield table(
        ("kill points", "acknowledged steps", "lost", "half-written", "never asked for", "outcome unknown, then settled by token"),
        [figures[name] for name in ("points", "acked", "lost", "half", "phantom", "unknown")],
    )


def power_cut(figures: Figures) -> Iterator[str]:
    yield "## The power is cut"
    yield (
        "A kill cannot show a missing fsync, because the system's cache outlives the process. So a run is recorded call by call, and "
        "at a random moment the disk is rebuilt as it may be found: what an fsync covered, and of the rest any part, each write and "
        "each file name by itself, one write torn at 512 bytes."
    )
    names = ("points", "acked", "lost", "half", "phantom", "missing_objects")
    yield table(
        ("setting", "power cuts", "acknowledged steps", "lost", "half-written", "never asked for", "files with an object missing"),
        ["`sync=full` (default)", *(figures["full"][name] for name in names)],
        ["`sync=normal`", *(figures["normal"][name] for name in names)],
    )
    yield (
        "With `sync=normal` SQLite syncs at checkpoints only, and these runs are too short for one, so a cut may take nearly all of "
        "a run. What is left is always a whole earlier state of each worker. An object that was released by a lost step may be "
        "removed already: then the record that is back refers to nothing, and reading it is an error with a name. Those files are "
        "counted in the last column, and their other steps are not judged."
    )


def disk_failures(figures: Figures) -> Iterator[str]:
    yield "## The disk fails or is full"
    yield (
        "Calls of the running store are made to fail: `fsync` and `fdatasync` with EIO, writes with EIO and ENOSPC, reads with EIO, "
        "renames, and opening with too many open files. Callers repeat what may not have been written, with its token."
    )
    heard = ", ".join(f"{number:,} × `{name}`" for name, number in sorted(figures["errors"].items()))
    yield table(
        ("runs", "acknowledged steps", "lost or doubled", "errors heard"), [figures["runs"], figures["acked"], figures["lost"], heard]
    )
    yield (
        "A full disk is also tried for real, on a small disk where the tests may mount one: reads go on, and writing resumes "
        "without a restart when there is room. SQLite reports a page that cannot be read as damage, hence `corruption`."
    )


def processes(figures: Figures) -> Iterator[str]:
    yield "## Two processes write one file"
    yield (
        "Both want the same unique names and add to one counter; in every other race one of them is killed. The feed must hold every "
        "write once and in order, and the search projection must be run by one of them at a time."
    )
    yield table(
        ("races", "acknowledged writes", "lost", "doubled", "projections run twice at once"),
        [figures[name] for name in ("races", "writes", "lost", "doubled", "projections_at_once")],
    )


def histories(figures: Figures) -> Iterator[str]:
    yield "## Concurrent calls on one record"
    yield (
        "Two stores on one file call get, create, patch and delete at once, and the answers of some writes are thrown away. Every "
        "history must be one that could have happened one call after the other (Wing, Gong and Lowe). A cache that is not "
        "invalidated is noticed."
    )
    names = ("histories", "calls", "not_linearizable")
    yield table(("histories", "calls", "not linearizable"), [figures[name] for name in names])


def specification(figures: Figures) -> Iterator[str]:
    yield "## The file beside the specification"
    yield (
        "The memory engine is the rules in their simplest form. Random batches with guards, queries, scans, counts, expiry, trims and "
        "reopenings are given to it and to the file, step by step, and every answer, every index and the feed are compared."
    )
    yield table(("steps", "differences", "seed"), [figures["steps"], figures["divergences"], str(figures["seed"])])


def projections(figures: Figures) -> Iterator[str]:
    yield "## What is built from the records"
    yield (
        "Changes come late, twice, in another order of records, and work is cut off before and after it is done. In the end every "
        "projection must be what the records say, and the same when it is built anew."
    )
    yield table(("runs", "faults", "differences"), [figures[name] for name in ("runs", "faults", "differences")])


def sweep(figures: Figures) -> Iterator[str]:
    yield "## What has expired is removed"
    yield (
        "A million records expire, and half of them are swept while a reader and two writers go on. "
        "The memory is that of sweeping the other half."
    )
    yield table(
        ("records", "seconds", "peak of memory", "longest wait of a read", "of a write", "of the event loop"),
        [
            figures["records"],
            figures["seconds"],
            f"{figures['peak_bytes'] / 1e6:.1f} MB",
            *(f"{figures['most_ms'][what]} ms" for what in ("read", "write", "event loop")),
        ],
    )


def planted() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.reliability.planted import PLANTED

    yield "## The proofs themselves"
    yield (
        f"A proof that cannot fail proves nothing. {len(PLANTED)} bugs of the kind such stores really have are planted "
        "one at a time, and the proof named for each must fail: " + ", ".join(name.replace("_", " ") for name in sorted(PLANTED)) + "."
    )


def faults() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.reliability.faults import FAULTS

    yield "## Faults, errors and tests"
    yield "On real servers and emulators; what only the service itself does (throttle, repartition) is played by a script."
    rows = [[fault.what, fault.engine, fault.told, named(fault.tests)] for fault in FAULTS]
    yield table(("what happens", "engine", "error, or what is kept", "test"), *rows)


def inputs() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.reliability.inputs import BAD, REAL_INPUT

    yield "## Bad input"
    yield "On the embedded stack, and what concerns records on every other stack as well."
    yield table(("what is asked", "error, or what is promised", "test"), *([each.what, each.told, named(each.tests)] for each in BAD))
    yield "## Real input"
    yield "Public data beside the project, which is not shipped with it: a test whose data is not there says so and skips."
    yield table(("what", "what comes of it", "test"), *([each.what, each.told, named(each.tests)] for each in REAL_INPUT))


def named(tests: Sequence[str]) -> str:
    return "<br>".join(f"`{test.rpartition('/')[2]}`" for test in tests)


SECTIONS: dict[str, Callable[[Figures], Iterator[str]]] = {
    "specification": specification,
    "kill": kill,
    "power_cut": power_cut,
    "disk_failures": disk_failures,
    "processes": processes,
    "histories": histories,
    "projections": projections,
    "sweep": sweep,
}


def table(names: tuple[str, ...], *rows: list[Any]) -> str:
    """Return a table of one row or more."""
    shown = [" | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row) for row in rows]
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(f"| {row} |" for row in shown)])


def render() -> str:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    parts = [*intro()]
    for name, section in SECTIONS.items():
        if name in results:
            parts += section(results[name])
            parts.append(f"*{results[name]['date']}, {results[name]['machine']}.*")
    return "\n\n".join([*parts, *faults(), *inputs(), *planted()]) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: reliability.py [--check]", file=sys.stderr)
        return 2
    text = render()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if arguments:
        print("docs/reliability.md is not what the last long runs left; run: python tools/reliability.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print("wrote docs/reliability.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
