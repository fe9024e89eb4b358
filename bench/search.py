"""Search on SQLite and on PostgreSQL: the same messages, the same questions, in turns.

    python -m bench.search --data FOLDER --postgres postgresql://… [--messages 50000] [--dir FOLDER]

FOLDER holds dialogues as JSON lines (`turns` with `text`, or lines with `text`); they are repeated until there are enough.
Every message belongs to one of 200 tenants. Questions are made of words that stand in a message, so that common words are asked
as often as they are said.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from palaver.connections.postgres import Pool
from palaver.connections.postgres_options import PostgresOptions
from palaver.connections.sqlite import Database
from palaver.ports import SearchDoc, SearchFilter, SearchIndex, SearchQuery, SearchSpec
from palaver.search.postgres import PostgresSearch
from palaver.search.sqlite import SqliteSearch
from palaver.search.text import tokens

OPEN = SearchSpec("open", ("text",), {"tenant": "text", "sent": "int"})
OWNED = SearchSpec("owned", ("text",), {"tenant": "text", "sent": "int"}, required=("tenant",))
TENANTS, QUESTIONS, CHUNK = 200, 200, 500


def texts(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl.gz")):
        for line in gzip.decompress(file.read_bytes()).decode().split("\n"):
            row = json.loads(line) if line else {}
            yield from (turn["text"] for turn in row.get("turns", []))
            if isinstance(row.get("text"), str):
                yield row["text"]


def messages(folder: Path, count: int) -> list[SearchDoc]:
    said = [text for text in texts(folder) if tokens(text)]
    chance = random.Random(1)
    every = [said[number % len(said)] for number in range(count)]
    return [
        SearchDoc(f"{number:08d}", 1, {"text": text}, {"tenant": f"t{chance.randrange(TENANTS)}", "sent": number})
        for number, text in enumerate(every)
    ]


def questions(docs: list[SearchDoc]) -> dict[str, tuple[str, Callable[[random.Random], SearchQuery]]]:
    """Return by name: the index, and what makes a question."""

    def words(chance: random.Random, count: int) -> tuple[list[str], SearchDoc]:
        while True:
            one = chance.choice(docs)
            found = tokens(one.text["text"])
            if len(found) >= count:
                start = chance.randrange(len(found) - count + 1)
                return found[start : start + count], one

    def tenant(chance: random.Random, typed: str) -> SearchQuery:
        return SearchQuery(typed, (SearchFilter("tenant", "==", f"t{chance.randrange(TENANTS)}"),))

    return {
        "one word": ("open", lambda chance: SearchQuery(words(chance, 1)[0][0])),
        "two words": ("open", lambda chance: SearchQuery(" ".join(words(chance, 2)[0]))),
        "a phrase of three": ("open", lambda chance: SearchQuery('"' + " ".join(words(chance, 3)[0]) + '"')),
        "a prefix of three letters": ("open", lambda chance: SearchQuery(words(chance, 1)[0][0][:3] + "*")),
        "one word of a tenant": ("owned", lambda chance: tenant(chance, words(chance, 1)[0][0])),
        "two words of a tenant": ("owned", lambda chance: tenant(chance, " ".join(words(chance, 2)[0]))),
        "newest of a tenant": ("owned", lambda chance: SearchQuery("", tenant(chance, "").filters, newest_first="sent")),
    }


async def index(search: SearchIndex, docs: list[SearchDoc]) -> float:
    await search.apply([OPEN, OWNED])
    began = time.perf_counter()
    for name in ("open", "owned"):
        for start in range(0, len(docs), CHUNK):
            await search.put(name, docs[start : start + CHUNK])
        await search.activate(name)
    return 2 * len(docs) / (time.perf_counter() - began)


async def ask(search: SearchIndex, name: str, query: SearchQuery) -> tuple[float, int]:
    began = time.perf_counter()
    page = await search.search(name, query)
    return (time.perf_counter() - began) * 1_000, page.total


async def measure(options: argparse.Namespace) -> None:
    docs = messages(Path(options.data), options.messages)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        database = await Database.open(Path(folder) / "search.db")
        pool = await Pool.open(options.postgres, PostgresOptions())
        engines: dict[str, SearchIndex] = {"sqlite": SqliteSearch(database), "postgres": PostgresSearch(pool)}
        await engines["postgres"].apply([])
        for name, search in engines.items():
            print(f"{name}: {await index(search, docs):,.0f} documents/s")
        await pool.execute("ANALYZE")
        print(f"{'ms (median, 95 %)':28}{'sqlite':>18}{'postgres':>18}{'ratio':>8}")
        for label, (where, make) in questions(docs).items():
            chance = random.Random(2)
            taken: dict[str, list[float]] = {name: [] for name in engines}
            for query in [make(chance) for _ in range(QUESTIONS)]:
                totals = set()
                for name, search in engines.items():
                    ms, total = await ask(search, where, query)
                    taken[name].append(ms)
                    totals.add(total)
                assert len(totals) == 1, query
            shown = {name: (statistics.median(found), sorted(found)[int(len(found) * 0.95)]) for name, found in taken.items()}
            cells = "".join(f"{median:9.2f} {most:8.2f}" for median, most in shown.values())
            print(f"{label:28}{cells}{shown['sqlite'][0] / shown['postgres'][0]:8.2f}")
        await engines["postgres"].apply([])
        await pool.aclose()
        await database.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--dir")
    asyncio.run(measure(parser.parse_args()))
