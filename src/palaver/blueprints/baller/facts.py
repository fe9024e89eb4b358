"""Real football results and club names, bundled for the demonstration. Source: openfootball, CC0 1.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

SOURCE = "openfootball (CC0 1.0)"


@dataclass(frozen=True, slots=True)
class Club:
    """`id` is ours, for the entity cache and the API; `names` are the others it is known by, in several languages."""

    id: str
    name: str
    country: str
    city: str | None
    ground: str | None
    founded: int | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """One result; `half` is the score at half time where it is known."""

    competition: str
    matchday: int
    date: str
    home: Club
    away: Club
    score: tuple[int, int]
    half: tuple[int, int] | None

    def of(self, club: Club) -> tuple[int, int]:
        """Return the goals for and against a club that played."""
        return self.score if club is self.home else (self.score[1], self.score[0])


@dataclass(frozen=True, slots=True)
class Competition:
    id: str
    name: str
    matches: tuple[Match, ...]

    @property
    def clubs(self) -> tuple[Club, ...]:
        return tuple(dict.fromkeys(match.home for match in self.matches))

    def of(self, club: Club) -> list[Match]:
        """Return a club's matches, oldest first."""
        return [match for match in self.matches if club is match.home or club is match.away]

    def between(self, first: Club, second: Club) -> list[Match]:
        return [match for match in self.of(first) if second is match.home or second is match.away]

    def table(self, matchday: int) -> list[Standing]:
        """Return the table after a matchday: by points, goal difference, goals, name."""
        rows = {club: Standing(club) for club in self.clubs}
        for match in self.matches:
            if match.matchday <= matchday:
                for club in (match.home, match.away):
                    rows[club].add(*match.of(club))
        return sorted(rows.values(), key=lambda row: (-row.points, row.against - row.goals, -row.goals, row.club.name))


@dataclass(slots=True)
class Standing:
    """One line of a table."""

    club: Club
    played: int = 0
    points: int = 0
    goals: int = 0
    against: int = 0

    def add(self, goals: int, against: int) -> None:
        self.played += 1
        self.points += 3 if goals > against else int(goals == against)
        self.goals += goals
        self.against += against


@dataclass(frozen=True)
class Facts:
    """Everything bundled."""

    clubs: Sequence[Club]
    competitions: Mapping[str, Competition]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def matches(self) -> int:
        return sum(len(competition.matches) for competition in self.competitions.values())


@lru_cache(maxsize=1)
def facts() -> Facts:
    """Read the bundled facts."""
    text = resources.files("palaver.blueprints.baller").joinpath("data/football.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    clubs = [
        Club(str(1000 + number), name, country, city, ground, founded, tuple(names))
        for number, (name, country, city, ground, founded, names) in enumerate(raw["clubs"], 1)
    ]
    return Facts(clubs, {key: _competition(key, body, clubs) for key, body in raw["leagues"].items()}, raw["source"])


def _competition(key: str, body: Mapping[str, Any], clubs: Sequence[Club]) -> Competition:
    return Competition(key, body["name"], tuple(_matches(key, body["matches"], clubs)))


def _matches(key: str, rows: Iterable[Sequence[Any]], clubs: Sequence[Club]) -> Iterable[Match]:
    for matchday, date, home, away, goals, against, half_home, half_away in rows:
        half = (half_home, half_away) if half_home is not None else None
        yield Match(key, matchday, date, clubs[home], clubs[away], (goals, against), half)
