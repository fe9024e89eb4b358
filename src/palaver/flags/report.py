"""What became of an experiment: users per variant, joined to how they rated afterwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from datetime import datetime

from palaver.clock import EPOCH
from palaver.errors import Validation
from palaver.flags.declaring import Experiment
from palaver.flags.records import ExposureRecord
from palaver.flags.splitting import SHARES
from palaver.query import Query
from palaver.store import Store

_Z = 1.959963984540054
"""Of a normal distribution, 95 % lies within so many standard deviations."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What a user said of an answer, and when. `positive`: yes or no, or a share between 0 and 1."""

    user: str
    positive: bool | float
    at: datetime


Ratings = Callable[[datetime], AsyncIterable[Rating]]
"""Gives the ratings since an instant, in any order; those before it are not counted. This is how any schema's feedback is joined."""


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One variant: how many users saw it, how many of them rated since, and the share of those that were positive.

    Each user counts once, with the share of their own ratings that were positive, so that nobody has more to say than others.
    `low` and `high` bound the share in 95 of 100 experiments like this one (Wilson's interval); None where nobody rated.
    """

    variant: str
    weight: float
    users: int
    rated: int
    positive: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Variants as declared, then those that are no longer; `since` is the first exposure that was counted."""

    experiment: str
    since: datetime | None
    variants: tuple[VariantReport, ...]


async def report(
    store: Store,
    entity: type[ExposureRecord],
    experiment: Experiment,
    ratings: Ratings | None,
    since: datetime | None,
    until: datetime | None,
) -> Report:
    """Read the exposures, then the ratings since the first; holds a number for each user that was exposed in memory."""
    seen: dict[str, tuple[str, datetime]] = {}
    async for exposure in store.query(_exposures(entity, experiment.name, since, until)):
        seen[exposure.user] = (exposure.variant, exposure.exposed)
    first = min((at for _, at in seen.values()), default=None)
    said: dict[str, tuple[float, int]] = {}
    if ratings is not None and first is not None:
        async for rating in ratings(first):
            if rating.user in seen and rating.at >= seen[rating.user][1] and (until is None or rating.at <= until):
                positive, count = said.get(rating.user, (0.0, 0))
                said[rating.user] = (positive + _positive(rating), count + 1)
    return Report(experiment.name, first, _variants(experiment, seen, said))


def _exposures(entity: type[ExposureRecord], name: str, since: datetime | None, until: datetime | None) -> Query[ExposureRecord]:
    query = entity.by_experiment(name)
    if since is not None:
        query = query.since(since)
    return query if until is None else query.between(since or EPOCH, until)


def _positive(rating: Rating) -> float:
    if not 0 <= rating.positive <= 1:
        raise Validation("A rating is positive, or not, or to a share between 0 and 1.")
    return float(rating.positive)


def _variants(
    experiment: Experiment, seen: dict[str, tuple[str, datetime]], said: dict[str, tuple[float, int]]
) -> tuple[VariantReport, ...]:
    users = Counter(variant for variant, _ in seen.values())
    shares: dict[str, list[float]] = {}
    for user, (positive, count) in said.items():
        shares.setdefault(seen[user][0], []).append(positive / count)
    weights = {name: weight * 100 / SHARES for name, weight in experiment.weights}
    out = []
    for variant in (*weights, *sorted(users.keys() - weights.keys())):
        mine = shares.get(variant, [])
        positive = math.fsum(mine)
        low, high = interval(positive, len(mine)) if mine else (None, None)
        share = positive / len(mine) if mine else None
        out.append(VariantReport(variant, weights.get(variant, 0.0), users[variant], len(mine), share, low, high))
    return tuple(out)


def interval(positive: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share: sound for few and for extreme ones, where the usual one leaves 0 to 1."""
    share, z2 = positive / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
