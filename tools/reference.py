"""Writes pages of docs from the code: `reference.py` rewrites them, `reference.py --check` names the stale ones."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from palaver import errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REMEDY = "What to do:"


def error_classes() -> list[type[errors.PalaverError]]:
    """Every public error, in the order of the source."""
    found = (value for name, value in vars(errors).items() if not name.startswith("_") and inspect.isclass(value))
    return [cls for cls in found if issubclass(cls, errors.PalaverError) and cls.__module__ == errors.__name__]


def advice(cls: type[errors.PalaverError]) -> tuple[str, str]:
    """Why an error happens and what to do about it, as its docstring says."""
    why, _, remedy = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")
    if not why or not remedy.startswith(REMEDY):
        raise SystemExit(f"errors.{cls.__name__}: the docstring must say why in its first paragraph, and begin the second with {REMEDY!r}")
    return " ".join(why.split()), " ".join(remedy.removeprefix(REMEDY).split())


def errors_page() -> Iterator[str]:
    yield "# Errors\n"
    yield "Every error is a `PalaverError` and carries a stable `code`, a static `title`, an HTTP `status` and whether a retry can help."
    yield "Messages name entities, fields and indexes, never stored values.\n"
    yield "| code | class | title | HTTP | retry |"
    yield "|---|---|---|---|---|"
    classes = error_classes()
    for cls in classes:
        yield f"| [`{cls.code}`](#{cls.code}) | `{cls.__name__}` | {cls.title} | {cls.status} | {'yes' if cls.retryable else 'no'} |"
    for cls in classes:
        why, remedy = advice(cls)
        kind = f", a kind of `{cls.__base__.__name__}`" if cls.__base__ and cls.__base__ is not Exception else ""
        retry = "a retry can help" if cls.retryable else "a retry does not help"
        yield f"\n## {cls.code}\n"
        yield f"*{cls.title}.* `{cls.__name__}`{kind}; HTTP {cls.status}; {retry}.\n"
        yield f"**Why:** {why}\n"
        yield f"**What to do:** {remedy[:1].upper()}{remedy[1:]}"


def cli_page() -> Iterator[str]:
    # Imported by name, so that a type check does not need the command line to be there.
    first, *commands = importlib.import_module("palaver.cli").app.generate_docs().split("\n## palaver ")
    yield first
    yield "\n## Exit codes\n"
    yield "| code | name | meaning |"
    yield "|---|---|---|"
    for code in importlib.import_module("palaver.cli.exits").Exit:
        yield f"| {int(code)} | {code.name.lower()} | {code.meaning} |"
    for command in commands:
        # The global options are the same everywhere, and told once above.
        yield f"\n## palaver {GLOBAL.sub('', command)}"


def baller_page() -> Iterator[str]:
    from palaver.blueprints.baller import SCHEMA, Baller, cache, patterns
    from palaver.insight.metrics import Metrics
    from palaver.insight.usage import Usage
    from palaver.turns.recorder import ApiCall, LlmCall, Turn
    from tools import answers, blueprint_page

    operations = [
        ("Baller", Baller),
        ("Turn, from Baller.turn", Turn),
        ("ApiCall, from Turn.api_call", ApiCall),
        ("LlmCall, from Turn.llm_call", LlmCall),
        ("EntityCache, as Baller.entities", cache.EntityCache),
        ("Metrics, as Baller.metrics", Metrics),
        ("Usage, as Baller.usage", Usage),
    ]
    intro = (ROOT / "tests" / "seeds" / "baller.intro.md").read_text(encoding="utf-8").strip()
    return blueprint_page.page("Baller", intro, answers.read("baller"), SCHEMA, patterns, operations)


def simple_agent_page() -> Iterator[str]:
    from palaver.blueprints.simple_agent import SCHEMA, SimpleAgent, channels, patterns, people, reports, sizing, turn
    from palaver.turns.recorder import ApiCall, LlmCall
    from tools import answers, blueprint_page

    operations = [
        ("SimpleAgent", SimpleAgent),
        ("AgentTurn, from SimpleAgent.message", turn.AgentTurn),
        ("ApiCall, from AgentTurn.api_call", ApiCall),
        ("LlmCall, from AgentTurn.llm_call", LlmCall),
        ("People, as SimpleAgent.people", people.People),
        ("Channels, as SimpleAgent.channels", channels.Channels),
        ("Reports, as SimpleAgent.reports", reports.Reports),
    ]
    intro = (ROOT / "tests" / "seeds" / "simple_agent.intro.md").read_text(encoding="utf-8").strip()
    budget = "\n".join(f"| {n} | {sizing.pool_size(n)} |" for n in (1, 2, 4, 8, 16))
    intro = intro.replace("{redis_conf}", sizing.redis_conf().rstrip()).replace("{budget}", budget)
    return blueprint_page.page("Simple AI Agent", intro, answers.read("simple_agent"), SCHEMA, patterns, operations)


GLOBAL = re.compile(r"\*\*Global options\*\*:\n\n(?:\* .*\n)+")
PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "reference/errors.md": errors_page,
    "reference/cli.md": cli_page,
    "blueprints/baller.md": baller_page,
    "blueprints/simple_agent.md": simple_agent_page,
}


def render(name: str) -> str:
    lines = "\n".join(PAGES[name]()).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"


def stale() -> list[str]:
    """The pages that are not what the code says."""
    return [name for name in PAGES if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != render(name)]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: reference.py [--check]", file=sys.stderr)
        return 2
    old = stale()
    for name in old:
        if arguments:
            print(f"docs/{name} is not what the code says; run: make docs", file=sys.stderr)
        else:
            (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / name).write_text(render(name), encoding="utf-8")
            print(f"wrote docs/{name}")
    return 1 if arguments and old else 0


if __name__ == "__main__":
    # Run as a program, Python looks beside this file and not where `tools` is.
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
