"""What this process knows of the windows in a cache it does not own: which of them it may believe, and which it must drop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_MOST_TRUSTED = 50_000
_MOST_RECENT = 10_000
_MOST_OWED = 100_000
_MOST_DOUBTS = 100


@dataclass(slots=True)
class Figures:
    """What became of the reads: answered by the cache, or not; by a rebuild of their own, or of another read.

    `away` counts how often the cache did not answer, `stale` how often a window that was there was not believed, and `kept` how
    many rebuilds the cache took.
    """

    hits: int = 0
    misses: int = 0
    joined: int = 0
    rebuilds: int = 0
    kept: int = 0
    away: int = 0
    stale: int = 0


class Newest(Generic[K, V]):
    """A dictionary that forgets what was set longest ago."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def set(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def first(self, n: int) -> list[tuple[K, V]]:
        return [entry for _, entry in zip(range(n), self._entries.items(), strict=False)]


class Trust:
    """A window is believed from when this process filled or dropped it, for as long as it misses nothing that may concern it.

    A writer may die, or lose its way to the cache, between its commit and its push; a server may come back without what it was
    told last. Then a window is there that lacks a message, and nothing in it says so. Hence nobody believes what was there
    before he listened, nor what was there before a connection was made.
    """

    def __init__(self) -> None:
        self.figures = Figures()
        self.listening = False
        self.paying = False
        self._epoch = 0
        self._made: int | None = None
        self._doubts: Newest[str, set[str]] = Newest(_MOST_TRUSTED)
        self._owed: Newest[str, int] = Newest(_MOST_OWED)
        self._revisions: Newest[tuple[str, str], int] = Newest(_MOST_RECENT)
        self._pushed: Newest[tuple[str, str], None] = Newest(_MOST_RECENT)
        self._left_out: Newest[tuple[str, str], None] = Newest(_MOST_RECENT)

    # --- windows ----------------------------------------------------------------------------------------------------

    def believes(self, key: str) -> bool:
        return self.listening and key in self._doubts and key not in self._owed

    def doubts(self, key: str) -> tuple[str, ...]:
        """Return the items that were stored since, and that the window must hold to be believed."""
        return tuple(self._doubts.get(key) or ())

    def settled(self, key: str, ids: set[str]) -> None:
        """Take note that a window held these items."""
        if doubts := self._doubts.get(key):
            doubts -= ids

    @property
    def epoch(self) -> int:
        return self._epoch

    def believe(self, key: str, epoch: int) -> None:
        """Believe a window that was dropped, and is filled from now on, unless something was missed since `epoch`."""
        if epoch == self._epoch:
            self._doubts.set(key, set())

    def disbelieve(self, key: str) -> None:
        self._doubts.forget(key)

    def missed(self) -> None:
        """Believe nothing of before; from now on what others do is heard."""
        self.listening = True
        self._epoch += 1
        self._doubts.clear()

    def connected(self, made: int) -> bool:
        """Say whether these are the connections there were before; if not, nothing is believed any more."""
        if made == self._made:
            return True
        self._made = made
        self._doubts.clear()
        return False

    # --- what the cache has not been told ---------------------------------------------------------------------------

    def owe(self, key: str) -> None:
        """Remember that a window must be dropped, whatever this process does meanwhile."""
        self.disbelieve(key)
        self._owed.set(key, (self._owed.get(key) or 0) + 1)

    def debt(self, key: str) -> int:
        return self._owed.get(key) or 0

    def paid(self, key: str, debt: int) -> None:
        """Take note that a window was dropped after `debt` was read."""
        if self.debt(key) == debt:
            self._owed.forget(key)

    def debts(self, most: int) -> list[tuple[str, int]]:
        return self._owed.first(most)

    # --- messages ---------------------------------------------------------------------------------------------------

    def stored(self, key: str, id: str) -> None:
        """Take note that somebody stored a message: the window must hold it."""
        doubts = self._doubts.get(key)
        if doubts is None or (key, id) in self._left_out:
            return
        doubts.add(id)
        if len(doubts) > _MOST_DOUBTS:
            self.disbelieve(key)

    def changed(self, key: str, id: str, revision: int) -> bool:
        """Take note that a message was changed or removed; return whether this process may have put it back."""
        self.disbelieve(key)
        self._revisions.set((key, id), max(revision, self._revisions.get((key, id)) or 0))
        return (key, id) in self._pushed

    def is_past(self, key: str, id: str, revision: int) -> bool:
        """Say whether a message is known to have been changed or removed after this revision of it."""
        return (self._revisions.get((key, id)) or 0) > revision

    def pushes(self, key: str, id: str) -> None:
        self._pushed.set((key, id), None)

    def leaves_out(self, key: str, id: str) -> None:
        """Take note that a message is not one of those the window holds."""
        self._left_out.set((key, id), None)
        self.settled(key, {id})
