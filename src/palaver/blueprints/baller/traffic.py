"""The demonstration's traffic: who asks what, and how each answer comes about, as plain values made from the facts.

The same size gives the same traffic every time. Storing it is left to whoever plays it through a recorder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from palaver.blueprints.baller import phrases
from palaver.blueprints.baller.facts import Club, Competition, Facts, Match
from palaver.blueprints.baller.names import normalized
from palaver.blueprints.baller.schema import AppMode

Size = Literal["s", "m", "l"]
DIALOGUES: Mapping[str, int] = {"s": 60, "m": 400, "l": 2_000}
SPAN_S = 6 * 86_400
"""The traffic ends now and began this long ago: within the seven days that calls are kept."""

SERVERS = (("Kop End", 3), ("Südkurve", 2), ("La Grada", 2), (None, 1))
MODES: tuple[tuple[AppMode, int], ...] = (("production", 8), ("beta", 2), ("development", 1))
MODELS = (("deepseek", "deepseek-chat", 5), ("anthropic", "claude-sonnet-4-5", 2), ("openai", "gpt-5-mini", 2))


@dataclass(frozen=True, slots=True)
class ApiAsked:
    """One call of the results service. `raises` names what went wrong where there was no answer at all."""

    endpoint: str
    parameters: Mapping[str, Any]
    took: float
    status: int = 200
    body: Any = None
    raises: bool = False


@dataclass(frozen=True, slots=True)
class ModelAsked:
    """One call of a model; `took` is in seconds."""

    provider: str
    model: str
    purpose: Literal["main_response", "relevance_check", "evaluation"]
    prompt: Sequence[Mapping[str, str]]
    response: str
    took: float
    raises: bool = False

    @property
    def tokens(self) -> tuple[int, int]:
        """What a model would count, roughly: a token for four characters."""
        return sum(len(part["content"]) for part in self.prompt) // 4 + 8, len(self.response) // 4 + 1


@dataclass(frozen=True, slots=True)
class Intended:
    name: str
    confidence: float
    resource: str
    parameters: Mapping[str, Any]
    entities: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and everything until its reply; without `reply` the turn failed."""

    pause: float
    question: str
    relevant: bool
    confidence: float
    check: ModelAsked
    intent: Intended | None
    context: Mapping[str, Any] | None
    calls: Sequence[ApiAsked]
    answer: ModelAsked | None
    evaluation: ModelAsked | None
    reply: str | None
    rating: Literal["positive", "negative"] | None
    comment: str | None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation. `starts` counts seconds from the beginning of the traffic."""

    number: int
    user: int
    username: str
    server: int | None
    place: str | None
    app_mode: AppMode
    starts: float
    exchanges: Sequence[Exchange]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with its answer, before anything goes wrong."""

    intent: str
    question: str
    reply: str
    endpoint: str
    parameters: Mapping[str, Any]
    body: Any
    clubs: Sequence[tuple[Club, str]]


def dialogues(facts: Facts, size: Size) -> list[Dialogue]:
    """Return the traffic of one size, in order of time."""
    rng = random.Random(f"palaver {size}")
    out = [_dialogue(rng, facts, number, DIALOGUES[size]) for number in range(DIALOGUES[size])]
    return sorted(out, key=lambda dialogue: dialogue.starts)


def _dialogue(rng: random.Random, facts: Facts, number: int, of: int) -> Dialogue:
    user = rng.randrange(min(len(phrases.HANDLES), 8 + of // 20))
    language = phrases.LANGUAGES[user % len(phrases.LANGUAGES)]
    server = rng.choices(range(len(SERVERS)), [weight for _, weight in SERVERS])[0]
    mode = rng.choices([mode for mode, _ in MODES], [weight for _, weight in MODES])[0]
    writer = _Writer(rng, facts, language, rng.choices(MODELS, [weight for *_, weight in MODELS])[0][:2])
    exchanges = list(writer.exchanges(1 + min(int(rng.expovariate(0.45)), 7)))
    # Evenings are busier than mornings.
    day, hour = rng.randrange(SPAN_S // 86_400), min(23.0, max(0.0, rng.gauss(19, 3)))
    starts = min(day * 86_400 + hour * 3_600, SPAN_S - 3_600)
    place = SERVERS[server][0]
    return Dialogue(number, user, phrases.HANDLES[user], server if place else None, place, mode, starts + number % 60, exchanges)


class _Writer:
    """Writes the exchanges of one conversation."""

    def __init__(self, rng: random.Random, facts: Facts, language: str, model: Sequence[str]) -> None:
        self.rng, self.language = rng, language
        self.provider, self.model = model
        self.competition: Competition = rng.choice(list(facts.competitions.values()))
        self.history: list[str] = []
        self.last: _Asked | None = None

    def exchanges(self, n: int) -> Iterator[Exchange]:
        for number in range(n):
            pause = 0.0 if not number else self.rng.uniform(4, 90)
            if self.rng.random() < 0.09:
                yield self._off_topic(pause)
            else:
                follows = self.last is not None and self.rng.random() < 0.5
                asked = self._follow_up(self.last) if follows and self.last is not None else self._ask(self._any_intent(), self._club())
                yield self._answered(asked, pause, follows)
                self.last = asked

    # --- asking -----------------------------------------------------------------------------------------------------

    def _any_intent(self) -> str:
        return self.rng.choices(("result", "fixtures", "form", "standings", "head_to_head", "venue"), (5, 3, 3, 2, 2, 1))[0]

    def _club(self) -> Club:
        return self.rng.choice(self.competition.clubs)

    def _called(self, club: Club) -> str:
        """Return a name people use: never the long official one with its founding year."""
        names = [name for name in (*club.names, club.name) if 4 <= len(name) <= 22 and "." not in name]
        return self.rng.choice(names or [club.name])

    def _follow_up(self, last: _Asked) -> _Asked:
        other = self._club()
        asked = self._ask("form" if last.intent == "standings" else last.intent, other)
        return _Asked(
            asked.intent,
            self.rng.choice(phrases.FOLLOW_UPS[self.language]).format(a=asked.clubs[0][1]),
            *(asked.reply, asked.endpoint, asked.parameters, asked.body, asked.clubs[:1]),
        )

    def _ask(self, intent: str, club: Club) -> _Asked:
        match = self.rng.choice(self.competition.of(club))
        other = match.away if club is match.home else match.home
        called, other_called = self._called(club), self._called(other)
        words: dict[str, Any] = {"a": called, "b": other_called, "day": match.matchday, "competition": self.competition.name}
        words["country"] = phrases.COUNTRIES[self.competition.id.split("/")[0]][self.language]
        words["month"] = phrases.MONTHS[self.language][int(match.date[5:7]) - 1]
        question = self.rng.choice(phrases.QUESTIONS[intent][self.language]).format(**words)
        found: dict[str, Any] = getattr(self, f"_{intent}")(club, other, match)
        reply = phrases.ANSWERS[intent][self.language].format(**{**words, **found["words"]})
        two = intent in ("result", "head_to_head")
        clubs = [] if intent == "standings" else [(club, called), *([(other, other_called)] if two else [])]
        return _Asked(intent, question, reply, found["endpoint"], found["parameters"], found["body"], clubs)

    def _result(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        half = phrases.HALF[self.language].format(x=match.half[0], y=match.half[1]) if match.half else ""
        x, y = match.score
        words = {"home": match.home.name, "away": match.away.name, "x": x, "y": y, "date": match.date, "half": half}
        return self._found(f"/competitions/{match.competition}/matches", {"team": club.id, "matchday": match.matchday}, words, [match])

    def _fixtures(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        found = [each for each in self.competition.of(club) if each.date[:7] == match.date[:7]]
        words = {"n": len(found), "lines": "\n".join(map(_line, found))}
        return self._found(f"/teams/{club.id}/matches", {"month": match.date[:7]}, words, found)

    def _form(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        found = [each for each in self.competition.of(club) if each.date <= match.date][-5:]
        scores = [each.of(club) for each in found]
        marks = phrases.FORM[self.language]
        form = " ".join(marks[0] if x > y else marks[1] if x == y else marks[2] for x, y in scores)
        words = {"form": form, "x": sum(x for x, _ in scores), "y": sum(y for _, y in scores)}
        return self._found(f"/teams/{club.id}/matches", {"last": 5}, words, found)

    def _standings(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        table = self.competition.table(match.matchday)
        lines = [f"{place}. {row.club.name} {row.points}" for place, row in enumerate(table[:5], 1)]
        body = [{"team": row.club.name, "played": row.played, "points": row.points, "goals": [row.goals, row.against]} for row in table]
        parameters = {"matchday": match.matchday}
        return {
            "endpoint": f"/competitions/{match.competition}/standings",
            "parameters": parameters,
            "words": {"lines": "\n".join(lines)},
            "body": {"standings": body},
        }

    def _head_to_head(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        found = self.competition.between(club, other)
        scores = [each.of(club) for each in found]
        won, lost = sum(x > y for x, y in scores), sum(x < y for x, y in scores)
        words = {"x": won, "y": lost, "z": len(found) - won - lost, "lines": "\n".join(map(_line, found))}
        return self._found(f"/teams/{club.id}/matches", {"against": other.id}, words, found)

    def _venue(self, club: Club, other: Club, match: Match) -> dict[str, Any]:
        words = {"ground": club.ground or "?", "city": f", {club.city}" if club.city else ""}
        body = {"team": club.name, "ground": club.ground, "city": club.city, "founded": club.founded}
        return {"endpoint": f"/teams/{club.id}", "parameters": {}, "words": words, "body": body}

    def _found(self, endpoint: str, parameters: Mapping[str, Any], words: Mapping[str, Any], matches: Sequence[Match]) -> dict[str, Any]:
        body = {"matches": [{"date": m.date, "home": m.home.name, "away": m.away.name, "score": list(m.score)} for m in matches]}
        return {"endpoint": endpoint, "parameters": parameters, "words": words, "body": body}

    # --- answering --------------------------------------------------------------------------------------------------

    def _answered(self, asked: _Asked, pause: float, follows: bool) -> Exchange:
        rng = self.rng
        calls, down = self._calls(asked)
        crashed = not down and rng.random() < 0.04
        good = not down and not crashed
        said = phrases.SORRY[self.language] if down else asked.reply
        data = f"{asked.question}\n{asked.body}"
        answer = None if down else self._model("main_response", [("system", phrases.SYSTEM_PROMPT), ("user", data)], said, crashed)
        rating, comment = self._rating(good=good)
        exchange = Exchange(
            pause=pause,
            question=asked.question,
            relevant=True,
            confidence=self._sure(0.8),
            check=self._check(asked.question, True),
            intent=self._intended(asked),
            context={"language": self.language, "history": self.history[-6:]} if follows else None,
            calls=calls,
            answer=answer,
            evaluation=self._evaluation(said) if good and rng.random() < 0.15 else None,
            reply=None if crashed else said,
            rating=rating,
            comment=comment,
        )
        self.history += [asked.question, *([] if crashed else [said])]
        return exchange

    def _intended(self, asked: _Asked) -> Intended:
        entities = [
            {"name": called, "normalized_name": normalized(called), "type": "team", "id": club.id, "confidence": self._sure(0.8)}
            for club, called in asked.clubs
        ]
        return Intended(asked.intent, self._sure(0.55), asked.endpoint, asked.parameters, entities)

    def _sure(self, least: float) -> float:
        return round(self.rng.uniform(least, 0.99), 2)

    def _evaluation(self, said: str) -> ModelAsked:
        mark = str(self.rng.choice((3, 4, 5, 5)))
        return self._model("evaluation", [("system", phrases.EVALUATION_PROMPT), ("user", said)], mark, False)

    def _off_topic(self, pause: float) -> Exchange:
        question = self.rng.choice(phrases.OFF_TOPIC[self.language])
        sure = round(self.rng.uniform(0.7, 0.99), 2)
        reply = phrases.ONLY_FOOTBALL[self.language]
        return Exchange(pause, question, False, sure, self._check(question, False), None, None, (), None, None, reply, None, None)

    def _calls(self, asked: _Asked) -> tuple[list[ApiAsked], bool]:
        """Return the calls it took, and whether the service stayed down."""
        rng = self.rng
        good = ApiAsked(asked.endpoint, asked.parameters, rng.lognormvariate(-1.9, 0.5), 200, asked.body)
        fate = rng.random()
        if fate < 0.03:
            return [ApiAsked(asked.endpoint, asked.parameters, 10.0, raises=True)], True
        if fate < 0.06:
            return [ApiAsked(asked.endpoint, asked.parameters, 0.2, 503), ApiAsked(asked.endpoint, asked.parameters, 0.3, 503)], True
        if fate < 0.11:
            return [ApiAsked(asked.endpoint, asked.parameters, 0.05, 429), good], False
        return [good], False

    def _check(self, question: str, relevant: bool) -> ModelAsked:
        said = "yes: it asks for a result" if relevant else "no: it is about something else"
        return self._model("relevance_check", [("system", phrases.RELEVANCE_PROMPT), ("user", question)], said, False)

    def _model(self, purpose: Any, prompt: Sequence[tuple[str, str]], response: str, raises: bool) -> ModelAsked:
        per_token = {"deepseek": 0.022, "anthropic": 0.014, "openai": 0.011}[self.provider]
        took = self.rng.lognormvariate(-1.2, 0.4) + per_token * len(response) / 4
        if self.rng.random() < 0.01:
            took += self.rng.uniform(4, 15)
        parts = [{"role": role, "content": content} for role, content in prompt]
        return ModelAsked(self.provider, self.model, purpose, parts, response, took, raises)

    def _rating(self, *, good: bool) -> tuple[Literal["positive", "negative"] | None, str | None]:
        if self.rng.random() > 0.2:
            return None, None
        positive = good and self.rng.random() < 0.8
        said = phrases.PRAISE if positive else phrases.COMPLAINT
        return "positive" if positive else "negative", self.rng.choice((None, *said[self.language]))


def _line(match: Match) -> str:
    return f"{match.date} {match.home.name} {match.score[0]}–{match.score[1]} {match.away.name}"
