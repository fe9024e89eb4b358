"""Measure, and write the figures into the documentation.

    python -m bench                                    our own phases beside raw apsw
    python -m bench --harness FOLDER --python PEERS     also the comparison harness, one peer at a time
    python -m bench --write                            keep the figures in bench/results.json and docs/performance.md
    python -m bench --only w3,w4 …                     these runs alone; store, startup and installed are runs too

Everything takes about 25 minutes on a quiet machine. What was measured is kept run by run, so that `--only` goes on where one ended,
and a run that is not made again keeps its figures and their date.

The harness is run with an interpreter that has the peers installed; `bench/adapters.py` puts Palaver into its rounds.
Put `--dir` on a real disk: where an fsync costs nothing, every durable figure is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench import factors, installed, musts, peers, store

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "performance.md"

SECTIONS = ("store", "startup", "installed")
ONE = ("raw-wal-full", "raw-1-commit", "raw-sqlite-executemany", "raw-redis-asyncio", "raw-dict", "raw-asyncpg", "raw-http", "raw-pg-copy")
SHARED = ("raw-group", "raw-autopipeline", "raw-batch")


def machine(folder: str | None) -> dict[str, Any]:
    """Describe the machine in words that matter here, the disk's fsync included."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096 * 64)
        file.flush()
        times = []
        for number in range(200):
            os.pwrite(file.fileno(), b"y" * 4096, 4096 * (number % 64))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1e6)
    load = os.getloadavg()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "fdatasync_us": round(statistics.median(times)),
        "load_before": round(load, 1),
    }


def startup(runs: int = 7) -> dict[str, Any]:
    """Time whole processes: the import, and the help page."""
    # As after an installation, which compiles everything: else it is compiled again in each process.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def timed(*command: str) -> list[float]:
        times = []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            times.append((time.perf_counter() - start) * 1e3)
        return sorted(times)

    empty = statistics.median(timed(sys.executable, "-c", "pass"))
    imported = timed(sys.executable, "-c", "import palaver")
    used = timed(sys.executable, "-c", "import palaver; palaver.Entity, palaver.open, palaver.Schema")
    helped = timed(sys.executable, "-m", "palaver", "--help")
    return {
        "python_alone_ms": round(empty),
        "import_ms": round(statistics.median(imported) - empty),
        "use_ms": round(statistics.median(used) - empty),
        "help_ms": round(statistics.median(helped)),
    }


def page(results: dict[str, Any]) -> str:
    """Return the documentation page of a set of results."""
    where = results["machine"]
    lines = [
        "# Performance",
        "",
        f"Measured on {where['date']} with `make bench`: {where['cores']} shared cores, {where['system']},",
        f"Python {where['python']}, one 4 KiB `fdatasync` {where['fdatasync_us']} µs, load {where['load_before']} before the run.",
        "Ratios are to the raw loop run in turn in the same process (above 1: ours is faster), as minimum – **median** – maximum",
        "over the rounds; absolute rates drift with the machine.",
        "",
        "## The store beside raw apsw",
        "",
        "The same typed columns, `synchronous=FULL`. Ours validates entities on the way in, writes a change row with every commit,",
        "and builds the same Pydantic objects on the way out. `create_32` is 32 concurrent tasks beside a bare group-commit thread.",
        "",
        "| phase | ours/s | raw/s | ratio | with search running: ratio | search lag when writing ends |",
        "|---|---:|---:|---|---|---|",
    ]
    searched = {row["phase"]: row for row in results["store_searched"]}
    for row in results["store"]:
        beside = searched.get(row["phase"], {})
        lag = f"{beside['search_lag']:,} changes" if "search_lag" in beside else ""
        cells = [row["phase"], f"{row['ours_per_s']:,}", f"{row['raw_per_s']:,}", _ratio(row["ratio"]), _ratio(beside.get("ratio")), lag]
        lines.append(f"| {' | '.join(cells)} |")
    bare = next((row["bare_thread_per_s"] for row in results["store"] if "bare_thread_per_s" in row), None)
    if bare is not None:
        lines += [
            "",
            "With one caller the way to the writer thread and back is most of the difference: a bare event loop that hands the",
            f"same rows to a thread, without a feed or validation, stores {bare:,} a second here. `get` and the load are bound by",
            "Python: building the address, the instance and the record. With search running the projection shares the",
            "interpreter with the callers.",
        ]
    lines += ["", "## Starting", "", "| what | ms |", "|---|---:|"]
    names = {
        "python_alone_ms": "Python alone",
        "import_ms": "`import palaver`, Python's own start taken off",
        "use_ms": "and everything a declaration and an opened store need, pydantic included",
        "help_ms": "`palaver --help`, whole process",
    }
    lines += [f"| {names[name]} | {value} |" for name, value in results["startup"].items()]
    lines += ["", *_installed(results["installed"])]
    if results.get("harness"):
        lines += ["", *_compared(results["harness"])]
    return "\n".join(lines) + "\n"


def _installed(measured: dict[str, Any]) -> list[str]:
    return [
        "## Installing",
        "",
        f"`pip install palaver` into a fresh environment: **{measured['packages']} packages, {measured['installed_mb']} MB**, and",
        f"{measured['with_bytecode_mb']} MB with the bytecode that pip compiles beside them (10⁶ bytes; without pip itself). A test",
        "refuses more than 30 packages and 45 MB. Clients of servers and of object storage are extras.",
    ]


def _ratio(ratio: list[float] | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.2f} – **{ratio[1]:.2f}** – {ratio[2]:.2f}"


def _compared(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Beside the libraries a user would pick instead",
        "",
        "What each job must reach, and what it aims at, as ratios to a raw loop that does the same work, or as bounds where it says",
        "so. The peer is the best of the libraries that were measured at the same work.",
        "An open store looks at what the database says of its schema twice a second, in one statement: while a hundred reads are",
        "counted, that may be one more. A SQLite commit with `synchronous=FULL` takes one fsync, and the log has to be copied into",
        "the file now and then, which takes two or three: exactly 1.00 a pair cannot be reached with one caller. The log is copied",
        "every 3,000 pages, which leaves 5 in 1,000; with SQLite's own 1,000 pages it is 10 in 1,000, which is what the raw loop has.",
        "",
        *musts.table(rows),
        "",
        "How many times faster than the best of them, or than a bare loop, with both in one run:",
        "",
        *factors.table(rows),
        "",
        "All figures follow: one run each with the raw limits, one peer and Palaver in the same rounds. `x` is the median over the",
        "rounds of the ratio to a raw loop: one that does each call by itself, and one in which concurrent calls share a commit or a",
        "write to the socket.",
        "",
        "| run | phase | who | per second | p50 µs | p99 µs | x raw, alone | x raw, shared | disk bytes a message | date |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if "ops_s" not in row:
            continue
        one, shared = (next((row[f"x_{raw}"] for raw in among if f"x_{raw}" in row), "") for among in (ONE, SHARED))
        cells = [row["run"], row.get("phase", "load"), row["name"], f"{row['ops_s']:,}", row.get("p50_us", ""), row.get("p99_us", "")]
        cells += [one, shared, row.get("disk_bytes_per_msg", ""), row.get("date", "")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None, help="where the databases are put; a real disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--harness", type=Path, help="the comparison harness's folder")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with the peers installed")
    parser.add_argument("--only", default="", help="runs, by how their names begin, with commas between")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args()
    only = [word.strip() for word in options.only.split(",") if word.strip()]
    unknown = [word for word in only if word not in SECTIONS and not peers.chosen([word])]
    if unknown:
        parser.error(f"there is no run {unknown[0]}; there are {', '.join([*SECTIONS, *(run.label for run in peers.RUNS)])}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in measure(options, only):
        results |= part(results)
        if options.write:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            PAGE.write_text(page(results))
    print(page(results))


def measure(options: argparse.Namespace, only: list[str]) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Take one measurement after the other; each gives what it changes in the results."""
    if not only or "startup" in only:
        begun = startup()
        yield lambda _: {"startup": begun}
    if not only or "installed" in only:
        fresh = installed.fresh()
        yield lambda _: {"installed": fresh}
    if not only or "store" in only:
        found = {
            "machine": machine(options.dir),
            "store": asyncio.run(store.measure(options.dir, options.rounds, search=False)),
            "store_searched": asyncio.run(store.measure(options.dir, options.rounds, search=True)),
        }
        yield lambda _: found
    runs = peers.chosen([word for word in only if word not in SECTIONS]) if not only or set(only) - set(SECTIONS) else []
    if not options.harness:
        return
    for label, rows in peers.measured(runs, options.harness.resolve(), options.python, options.dir, options.rounds):
        yield partial(_with, label, rows)


def _with(label: str, rows: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, Any]:
    """Return all rows of the harness with these in place of those of an earlier run, in the order of the runs."""
    order = {run.label: number for number, run in enumerate(peers.RUNS)}
    kept = [row for row in results.get("harness", []) if row["run"] != label and row["run"] in order]
    return {"harness": sorted(kept + rows, key=lambda row: order[row["run"]])}


if __name__ == "__main__":
    main()
