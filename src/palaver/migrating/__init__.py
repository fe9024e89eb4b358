"""Migrations carried out: what the data must fulfil is looked at, steps are taken, records are filled, all resumable."""

from palaver.migrating.run import Applied, Migrator

__all__ = ["Applied", "Migrator"]
