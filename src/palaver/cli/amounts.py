"""Numbers on a command line: how many, and how long."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

from cyclopts import Parameter


def _some(_: object, value: float | None) -> None:
    if value is not None and not (isfinite(value) and value > 0):
        raise ValueError("It must be more than 0.")


SOME = Parameter(validator=_some)
Count = Annotated[int, SOME]
Seconds = Annotated[float, SOME]
