"""Whether a history of concurrent calls on one record could have happened one after the other (Wing, Gong and Lowe).

A call takes effect at one moment between its beginning and its end. One whose outcome is unknown may take effect at any
later moment, or never. Histories of different records are judged apart, which is what makes long ones feasible.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when it began and ended (NEVER: nobody knows), what was asked and what came back."""

    began: float
    ended: float
    asked: tuple[Any, ...]
    answer: Any


# Given a state, what was asked and what came back (ignored where unknown): the states after it, none where it cannot be.
Step = Callable[[Hashable, tuple[Any, ...], Any, bool], Sequence[Hashable]]


def is_linearizable(calls: Sequence[Call], start: Hashable, step: Step) -> bool:
    """Say whether some order of the calls explains every answer."""
    order = sorted(calls, key=lambda call: call.began)
    everything = frozenset(number for number, call in enumerate(order) if call.ended != NEVER)
    tried: set[tuple[frozenset[int], Hashable]] = set()
    waiting: list[tuple[frozenset[int], Hashable]] = [(frozenset(), start)]
    while waiting:
        done, state = waiting.pop()
        if everything <= done:
            return True
        if (done, state) in tried:
            continue
        tried.add((done, state))
        # Nothing that began after another one ended can have come before it.
        until = min(order[number].ended for number in everything - done)
        for number, call in enumerate(order):
            if call.began > until:
                break
            if number not in done:
                waiting += [(done | {number}, after) for after in step(state, call.asked, call.answer, call.ended == NEVER)]
    return False


def register(state: Hashable, asked: tuple[Any, ...], answer: Any, unknown: bool) -> Sequence[Hashable]:
    """A record that is absent (None) or holds a number: what each verb does to it and answers."""
    match asked:
        case ("get",):
            return [state] if unknown or answer == state else []
        case ("create", value):
            return _either(state is None, value, state, answer, unknown)
        case ("add", amount):
            return _either(state is not None, amount + state if isinstance(state, int) else None, state, answer, unknown)
        case ("swap", old, new):
            return _either(state == old, new, state, answer, unknown)
        case ("delete",):
            return [None]
    raise AssertionError(asked)


def _either(holds: bool, then: Hashable, state: Hashable, answer: Any, unknown: bool) -> Sequence[Hashable]:
    """A conditional write answers "refused" exactly where its condition does not hold, and else with the record after."""
    if unknown:
        return [then] if holds else [state]
    if answer == "refused":
        return [] if holds else [state]
    return [then] if holds and answer == then else []
