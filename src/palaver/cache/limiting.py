"""How limits count. The scripts for Redis do the same arithmetic, in whole numbers, so that every engine says the same.

A bucket's state is its debt and the millisecond it was reckoned at: a hit adds `period` units, a millisecond takes off
`amount`. A window's state is the sum of its hits, then slot and count of each slice that has any.
"""

from __future__ import annotations

from typing import Any

from palaver.caching import SLICES, Limit

State = list[Any]
NEVER = -1


def look(limit: Limit, state: State | None, now: int, cost: int) -> tuple[int, int]:
    """Return what remains and in how many milliseconds `cost` would fit: 0 now, NEVER. Lets time pass in the state."""
    if state is None:
        room = limit.room
        if limit.kind == "window":
            return room, 0 if cost <= room else NEVER
        return room // limit.period, 0 if cost * limit.period <= room else NEVER
    return (_look_at_window if limit.kind == "window" else _look_at_bucket)(limit, state, now, cost)


def charge(limit: Limit, state: State | None, now: int, cost: int) -> State:
    """Return the state with `cost` in it: a new one for None, else the same, changed."""
    if limit.kind == "bucket":
        if state is None:
            return [cost * limit.period, now]
        state[0] += cost * limit.period
        return state
    slot = now // limit.period
    if state is None:
        return [cost, slot, cost]
    state[0] += cost
    if len(state) > 1 and state[-2] >= slot:
        state[-1] += cost
    else:
        state += (slot, cost)
    return state


def rests_at(limit: Limit, state: State) -> int:
    """Return the millisecond from which this state says no more than none would."""
    if limit.kind == "bucket":
        return int(state[1] - -state[0] // limit.amount)
    return (int(state[-2]) + SLICES + 1) * limit.period if len(state) > 1 else 0


def _look_at_bucket(limit: Limit, state: State, now: int, cost: int) -> tuple[int, int]:
    debt, at = state
    # A clock that went back adds nothing: `at` stays where it was, and until it is there again nothing flows off.
    if now > at:
        debt = max(0, debt - (now - at) * limit.amount)
        state[0], state[1] = debt, at = debt, now
    over = debt + cost * limit.period - limit.room
    if over <= 0:
        return (limit.room - debt) // limit.period, 0
    never = cost * limit.period > limit.room
    return max(0, limit.room - debt) // limit.period, NEVER if never else -(-over // limit.amount) + at - now


def _look_at_window(limit: Limit, state: State, now: int, cost: int) -> tuple[int, int]:
    slot = now // limit.period
    if len(state) > 1:
        slot = max(slot, state[-2])
    # A slice counts until its last moment is a whole span ago, so no span ever holds more than is allowed.
    while len(state) > 1 and state[1] < slot - SLICES:
        state[0] -= state[2]
        del state[1:3]
    used = state[0]
    over = used + cost - limit.room
    if over <= 0:
        return limit.room - used, 0
    if cost > limit.room:
        return max(0, limit.room - used), NEVER
    place = 1
    while over > state[place + 1]:
        over -= state[place + 1]
        place += 2
    return max(0, limit.room - used), (state[place] + SLICES + 1) * limit.period - now
