"""What goes with a person, what is only masked, and what the daily archive notes about whom."""

from __future__ import annotations

from palaver.blueprints.baller.schema import Feedback, UserPreferences
from palaver.lifecycle.archive import Archive
from palaver.lifecycle.personal import Mention, Policy
from palaver.store import Store

SNAPSHOTS = Mention(Feedback, "by_owner", ("response_snapshot", "owner_id"))
"""What others rated was said in the person's conversation: the words go, the rating stays theirs."""

ERASURE = Policy(mentions=(SNAPSHOTS,))
"""On request: everything of the person is deleted."""

PURGE = Policy({UserPreferences: "mask", Feedback: "mask"}, otherwise="delete", mentions=(SNAPSHOTS,))
"""Each quarter, of whoever is inactive: names and words go; ratings and followed teams stay as numbers."""


def archive_of(store: Store) -> Archive:
    """Return the archives of a store, whose notes also say whose conversations were rated."""
    return Archive(store, about={Feedback: ("owner_id",)})
