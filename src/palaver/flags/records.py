"""What is stored: what somebody set, and who saw which variant. A schema derives both, as it derives its usage and metrics."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from palaver.clock import days, now
from palaver.entity import Entity
from palaver.flags.splitting import SHARES
from palaver.keys import History, Index, Key
from palaver.markers import InstantMs, Json, Subject

EVERYBODY, ROLLOUT, HEAD = "everybody", "rollout", "head"
ANY = "*"


class FlagRecord(Entity):
    """Base for the flags of a schema: `class FeatureFlag(FlagRecord, table="feature_flags"): ...` is all it takes.

    A record for each flag and what a value was set for, so that two who change different things never undo each other. A value
    that was taken back leaves a record without one: its images say who changed what, when and why for 400 days.
    """

    namespace: str
    flag: str
    scope: str
    target: str
    value: Json = None
    share: Annotated[int, Field(ge=0, le=SHARES)] | None = None
    by: str = ""
    reason: str = ""
    changed: InstantMs = Field(default_factory=now)
    user: Annotated[str | None, Subject()] = None

    key = Key("namespace", sort=("flag", "scope", "target"))
    by_user = Index("user", sort="flag")
    images = History(days(400))


class ExposureRecord(Entity):
    """Base for the exposures of a schema: the variant a user saw of an experiment, and when first."""

    user: Annotated[str, Subject()]
    experiment: str
    variant: str
    exposed: InstantMs = Field(default_factory=now)

    key = Key("user", sort="experiment")
    by_experiment = Index("experiment", sort="exposed", shards=8)
