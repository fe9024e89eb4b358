"""Reports: who was there, how they talk, which models answer, and what that costs and will cost.

All of them read rows that are counted from the changes as they happen, a day at a time, and never the messages. Ratings are read
themselves, through their index over time, because people change them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import get_args

from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import Feedback, Metric, ModelUsage, Rating
from palaver.insight.histogram import Histogram
from palaver.insight.metrics import Metrics, total
from palaver.insight.tally import check_days, days_between
from palaver.insight.usage import Line, Usage
from palaver.store import Store

LOOK_BACK = 28
WEEK = 7


@dataclass(frozen=True, slots=True)
class Engagement:
    """Who was there in a span of days. A user who wrote on several days, or channels, is one user."""

    active_users: int
    active_by_day: Mapping[str, int]
    new_conversations: int
    messages: int
    channels: Mapping[str, int]
    positive: int
    ratings: int

    @property
    def messages_per_user(self) -> float | None:
        """Questions for each active user, None where nobody was there."""
        return self.messages / self.active_users if self.active_users else None

    @property
    def satisfaction(self) -> float | None:
        """The share of ratings that are positive, None without any."""
        return self.positive / self.ratings if self.ratings else None


@dataclass(frozen=True, slots=True)
class Patterns:
    """How people talk: questions by hour (UTC) and weekday (1 is Monday), and how long conversations are that ended."""

    by_hour: Mapping[int, int]
    by_weekday: Mapping[int, int]
    messages: Histogram
    seconds: Histogram
    reply_latency: Histogram


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a month costs: spent so far, what the rest of it will cost at the pace of the days looked at, and both.

    `unpriced` calls of these days have no price and are in none of the figures.
    """

    spent: Decimal
    expected: Decimal
    per_day: Decimal
    days_looked_at: int
    unpriced: int
    by_model: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def whole(self) -> Decimal:
        return self.spent + self.expected


class Reports:
    """Reports over the counted rows. Days are UTC days, both ends included."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.metrics = Metrics(store, Metric)
        self.usage = Usage(store, ModelUsage)

    async def engagement(self, first: date, last: date) -> Engagement:
        """Return who was there and how much they said."""
        seen: set[str] = set()
        by_day: dict[str, int] = {}
        for day in days_between(first, last):
            users = [found.user_id async for found in self._store.query(patterns.users_active_on(day.isoformat()))]
            by_day[day.isoformat()] = len(users)
            seen.update(users)
        questions = await self.metrics.read(first, last, category="messages", name="user", by="all")
        begun = await self.metrics.read(first, last, category="conversations", name="started", by="all")
        ratings = [each.rating == "positive" async for each in self._ratings(first, last)]
        return Engagement(
            len(seen),
            by_day,
            total(begun).count,
            total(questions).count,
            {point.mode: point.values.count for point in questions},
            sum(ratings),
            len(ratings),
        )

    async def models(self, first: date, last: date, *, by: Sequence[str] = ("provider", "model"), channel: str | None = None) -> list[Line]:
        """Return calls, tokens, latency and exact cost, grouped by any of day, month, channel, provider, model and purpose."""
        only = {} if channel is None else {"app_mode": channel}
        return await self.usage.report(first, last, by=["app_mode" if name == "channel" else name for name in by], **only)

    async def satisfaction_by_model(self, first: date, last: date) -> dict[str, float]:
        """Return for each model the share of its rated replies that people liked."""
        found: dict[str, list[bool]] = {}
        async for each in self._ratings(first, last):
            if each.model_used is not None:
                found.setdefault(each.model_used, []).append(each.rating == "positive")
        return {model: sum(liked) / len(liked) for model, liked in found.items()}

    async def _ratings(self, first: date, last: date) -> AsyncIterator[Feedback]:
        """Yield the verdicts that stand, each on the day it was given last."""
        check_days(first, last)
        span = datetime.combine(first, time.min, UTC), datetime.combine(last, time.max, UTC)
        for rating in get_args(Rating):
            async for each in self._store.query(patterns.feedback_rated(rating).between(*span)):
                yield each

    async def patterns(self, first: date, last: date, *, channel: str | None = None) -> Patterns:
        """Return when people write and how long conversations are; of one channel, or of all."""
        hours = await self.metrics.read(first, last, category="hour", mode=channel, by="all")
        weekdays = await self.metrics.read(first, last, category="weekday", mode=channel, by="all")
        lengths = await self.metrics.read(first, last, category="conversations", mode=channel, by="all")
        latency = await self.metrics.read(first, last, category="latency", name="reply", mode=channel, by="all")
        return Patterns(
            {hour: total(point for point in hours if point.name == f"{hour:02d}").count for hour in range(24)},
            {day: total(point for point in weekdays if point.name == f"{day}").count for day in range(1, WEEK + 1)},
            total(point for point in lengths if point.name == "messages"),
            total(point for point in lengths if point.name == "seconds"),
            total(latency),
        )

    async def forecast(self, today: date, *, look_back: int = LOOK_BACK) -> Forecast:
        """Return what the month of a day costs: spent up to it, and the rest at the mean of the whole days before it.

        Looks back over whole weeks by default, so that weekends weigh as much as they do in a month; of a bot that is
        younger, over the days since its first call.
        """
        begins = today.replace(day=1)
        ends = (begins + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        spent = await self.usage.report(begins, today, by=("model",))
        past = await self.usage.report(today - timedelta(days=look_back), today - timedelta(days=1), by=("day",))
        looked_at = (today - date.fromisoformat(past[0].group[0])).days if past else 0
        per_day = sum((line.used.cost for line in past), Decimal(0)) / looked_at if looked_at else Decimal(0)
        return Forecast(
            sum((line.used.cost for line in spent), Decimal(0)),
            per_day * (ends - today).days,
            per_day,
            looked_at,
            sum(line.used.unpriced for line in spent),
            {line.group[0]: line.used.cost for line in spent},
        )
