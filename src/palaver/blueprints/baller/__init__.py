"""Baller: a football bot on a chat platform, with the whole pipeline of each answer."""

from palaver.blueprints.baller.schema import SCHEMA, Retention, schema

__all__ = ["SCHEMA", "Retention", "schema"]
