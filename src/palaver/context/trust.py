"""What this process knows of the windows in a cache it does not own: which of them it may believe, and which it must drop."""

from __future__ import annotations

from dataclasses import dataclass

from palaver.cache.bounded import Newest

_MOST_TRUSTED = 50_000
_MOST_RECENT = 10_000
_MOST_OWED = 100_000
_MOST_AWAITED = 100


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
        self.term = 0
        self._made: int | None = None
        # What was stored since, and each window that is believed has to hold.
        self._awaited: Newest[str, set[str]] = Newest(_MOST_TRUSTED)
        self.owed: Newest[str, int] = Newest(_MOST_OWED)
        self._revisions: Newest[tuple[str, str], int] = Newest(_MOST_RECENT)
        self._pushed: Newest[tuple[str, str], None] = Newest(_MOST_RECENT)
        self._left_out: Newest[tuple[str, str], None] = Newest(_MOST_RECENT)

    # --- belief -----------------------------------------------------------------------------------------------------

    def believes(self, key: str) -> bool:
        return self.listening and key in self._awaited and key not in self.owed

    def believe(self, key: str, term: int) -> None:
        """Believe a window that was dropped, and is filled from now on, unless all was doubted since this term."""
        if term == self.term:
            self._awaited[key] = set()

    def doubt(self, key: str) -> None:
        self._awaited.pop(key, None)

    def missed(self) -> None:
        """Believe nothing of before; from now on what others do is heard."""
        self.listening = True
        self.term += 1
        self._awaited.clear()

    def connected(self, made: int) -> bool:
        """Say whether these are the connections there were before; if not, nothing is believed any more."""
        if made == self._made:
            return True
        self._made = made
        self._awaited.clear()
        return False

    # --- what the cache was not told --------------------------------------------------------------------------------

    def owe(self, key: str) -> None:
        """Remember that the cache has to drop a window, whatever this process does meanwhile."""
        self.doubt(key)
        self.owed[key] = self.owed.get(key, 0) + 1

    def told(self, key: str, debt: int) -> None:
        """Take note that a window was dropped after `debt` was what was owed."""
        if self.owed.get(key, 0) == debt:
            self.owed.pop(key, None)

    # --- messages ---------------------------------------------------------------------------------------------------

    def stored(self, key: str, id: str) -> None:
        """Take note that somebody stored a message: the window must hold it."""
        awaited = self._awaited.get(key)
        if awaited is None or (key, id) in self._left_out:
            return
        awaited.add(id)
        if len(awaited) > _MOST_AWAITED:
            self.doubt(key)

    def awaited(self, key: str) -> tuple[str, ...]:
        """Return the messages that were stored since, and that the window must hold to be believed."""
        return tuple(self._awaited.get(key, ()))

    def held(self, key: str, ids: set[str]) -> None:
        """Take note that a window held these."""
        if awaited := self._awaited.get(key):
            awaited -= ids

    def changed(self, key: str, id: str, revision: int) -> bool:
        """Take note that a message was changed or removed; return whether this process may have put it back."""
        self.doubt(key)
        self._revisions[key, id] = max(revision, self._revisions.get((key, id), 0))
        return (key, id) in self._pushed

    def is_past(self, key: str, id: str, revision: int) -> bool:
        """Say whether a message is known to have been changed or removed after this revision of it."""
        return self._revisions.get((key, id), 0) > revision

    def pushes(self, key: str, id: str) -> None:
        self._pushed[key, id] = None

    def leaves_out(self, key: str, id: str) -> None:
        """Take note that a message is not one of those the window holds."""
        self._left_out[key, id] = None
        self.held(key, {id})
