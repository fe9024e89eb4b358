"""Migrations carried out: what the data must fulfil is looked at, steps are taken, records are filled, all resumable."""

from palaver.migrating.run import Applied, Migrator
from palaver.migrating.status import MigrationStatus, status_of

__all__ = ["Applied", "MigrationStatus", "Migrator", "status_of"]
