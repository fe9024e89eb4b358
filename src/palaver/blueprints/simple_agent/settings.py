"""What a running agent decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT
from palaver.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What a running agent decides.

    `tenant`: whose people and conversations the agent sees; what is another tenant's is not there for it.
    `touch`, `seen`: the last activity and the day somebody was seen are sort parts of indexes, and moving them with
    each message would rewrite the entry each time. `pause`: silence up to which a message continues its conversation; after
    `touch` more it begins a new one for sure.
    `default_model`: what answers where neither conversation, user nor channel says. `variants`: models by the variant of
    the experiment "model_selection".
    """

    tenant: str = DEFAULT_TENANT
    default_model: str = "gpt-4"
    pause: timedelta | None = None
    touch: timedelta = timedelta(minutes=1)
    seen: timedelta = timedelta(minutes=10)
    variants: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The name stands before a slash where deliveries, presence and limits name channels.
        if not self.tenant or "/" in self.tenant:
            raise ConfigError("A tenant's name is some text without a slash.")

    def qualified(self, name: str) -> str:
        """Return what a name, of a channel for instance, is where those of all tenants are: "acme/discord", or as it is."""
        return name if self.tenant == DEFAULT_TENANT and "/" not in name else f"{self.tenant}/{name}"
