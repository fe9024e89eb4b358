"""Simple AI Agent: people on several channels, one history for each, and the models that answer them."""

from palaver.blueprints.simple_agent.keeping import ERASURE, PURGE
from palaver.blueprints.simple_agent.operations import SimpleAgent
from palaver.blueprints.simple_agent.patterns import users_inactive_since
from palaver.blueprints.simple_agent.projections import PROJECTIONS
from palaver.blueprints.simple_agent.running import FLAGS, RULES, capabilities
from palaver.blueprints.simple_agent.schema import SCHEMA, Retention, schema
from palaver.blueprints.simple_agent.settings import Settings

__all__ = [
    "ERASURE",
    "FLAGS",
    "PROJECTIONS",
    "PURGE",
    "RULES",
    "SCHEMA",
    "Retention",
    "Settings",
    "SimpleAgent",
    "capabilities",
    "schema",
    "users_inactive_since",
]
