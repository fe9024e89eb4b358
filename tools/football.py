"""Makes the demonstration's facts from two files of openfootball: `football.py matches.jsonl clubs.jsonl`.

The facts are in the public domain (CC0 1.0); what is kept is every result, and the names and aliases of the clubs in them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "src" / "palaver" / "blueprints" / "baller" / "data" / "football.json"
SOURCE = {
    "name": "openfootball",
    "repositories": {"football.json": "25cfaf102954", "clubs": "ae3800227c44"},
    "licence": "CC0-1.0",
    "credit": "openfootball contributors",
}


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def clubs_of(teams: list[str], clubs: list[dict[str, Any]]) -> list[list[Any]]:
    """Return [name, country, city, ground, founded, aliases] of every team, under the name its results use."""
    known: dict[str, dict[str, Any]] = {}
    for club in clubs:
        if not club.get("reserve_of"):
            for name in (club["name"], *(alias["name"] for alias in club["aliases"])):
                known.setdefault(name, club)
    out = []
    for team in teams:
        club = known[team]
        names = dict.fromkeys([club["name"], *(alias["name"] for alias in club["aliases"])])
        city = (club["city"] or "").split(" › ")[0] or None
        country = club["country"].split(" • ")[0]
        out.append([team, country, city, club["ground"], club["founded"], [name for name in names if name != team]])
    return out


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: football.py matches.jsonl clubs.jsonl", file=sys.stderr)
        return 2
    matches = [match for match in rows(arguments[0]) if match["score"].get("ft")]
    teams = sorted({match[side] for match in matches for side in ("team1", "team2")})
    number = {team: n for n, team in enumerate(teams)}
    leagues: dict[str, list[list[Any]]] = {}
    names: dict[str, str] = {}
    for match in matches:
        key = f"{match['league']}/{match['season']}"
        names[key] = match["league_name"]
        matchday = int(match["round"].split()[-1])
        half = match["score"].get("ht") or [None, None]
        row = [matchday, match["date"], number[match["team1"]], number[match["team2"]], *match["score"]["ft"], *half]
        leagues.setdefault(key, []).append(row)
    lines = [
        f'"source": {json.dumps(SOURCE)}',
        '"clubs": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False) for c in clubs_of(teams, rows(arguments[1]))) + "\n]",
    ]
    for key, found in leagues.items():
        body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in found)
        lines.append(f'{json.dumps(key)}: {{"name": {json.dumps(names[key], ensure_ascii=False)}, "matches": [\n{body}\n]}}')
    head, leagues_text = lines[:2], lines[2:]
    text = "{\n" + ",\n".join(head) + ',\n"leagues": {\n' + ",\n".join(leagues_text) + "\n}}\n"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    print(f"{len(matches):,} results of {len(teams)} clubs in {TARGET.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
