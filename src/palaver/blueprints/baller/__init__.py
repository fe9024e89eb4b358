"""Baller: a football bot on a chat platform, with the whole pipeline of each answer."""

from palaver.blueprints.baller.keeping import ERASURE, PURGE
from palaver.blueprints.baller.operations import Baller
from palaver.blueprints.baller.patterns import users_inactive_since
from palaver.blueprints.baller.projections import PROJECTIONS
from palaver.blueprints.baller.recording import Settings
from palaver.blueprints.baller.schema import SCHEMA, Retention, schema

__all__ = ["ERASURE", "PROJECTIONS", "PURGE", "SCHEMA", "Baller", "Retention", "Settings", "schema", "users_inactive_since"]
