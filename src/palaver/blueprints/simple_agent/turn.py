"""The recorder of one turn of the agent: `palaver.turns.Turn` with who is asking, which model answers, the prompt, and tools."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from palaver.blueprints.simple_agent.prompts import LAST
from palaver.blueprints.simple_agent.recording import TurnBook
from palaver.blueprints.simple_agent.running import EXPERIMENT, Running
from palaver.blueprints.simple_agent.schema import Message, Role, ToolCall
from palaver.blueprints.simple_agent.settings import Settings
from palaver.clock import Clock
from palaver.errors import ConfigError
from palaver.flags import Flags
from palaver.turns.recorder import Turn
from palaver.turns.refusing import refusing


class AgentTurn(Turn):
    """One user message and everything until its reply: `async with agent.message(...) as turn`."""

    def __init__(self, book: TurnBook, clock: Clock, settings: Settings, running: Running | None) -> None:
        super().__init__(book, clock)
        self._agent_book, self._settings, self._running = book, settings, running
        self.reply_id = ""
        """The identifier of the last reply, empty before one."""

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def user_id(self) -> str:
        """Whose turn it is, on whatever channel."""
        return self._agent_book.known.user.user_id

    @property
    def model(self) -> str:
        """The model that answers: the conversation's own, the user's, that of an experiment, the channel's, or the default."""
        return self._agent_book.model

    def flag(self, name: str) -> Any:
        """Return the value of a flag for this user on this channel; raise ConfigError where the agent runs without flags."""
        if self._running is None:
            raise ConfigError("The agent runs without flags.", hint="SimpleAgent(store, await simple_agent.capabilities(store)).")
        return self._running.flags.value(name, **self._targets())

    async def prompt(self, *, limit: int = LAST, budget: int | None = None) -> list[Message]:
        """Return the last messages of the conversation, oldest first, the question among them: what the model is asked with.

        At most `limit` of them (1 to 20), and with `budget` no more tokens than that; the newest is always there. Of a user who has
        written 20 more meanwhile, the question is no longer among them.
        """
        return await self._agent_book.context(limit, budget)

    def _experiments(self) -> Flags | None:
        """Return what decides on variants, None where no variant has a model of its own."""
        return self._running.flags if self._running is not None and self._settings.variants else None

    def _targets(self) -> dict[str, str]:
        return {"user": self.user_id, "channel": self._agent_book.channel_type}

    # --- what is said -------------------------------------------------------------------------------------------------

    async def reply(self, content: str, *, message_id: str | None = None) -> str:
        """Store the reply with the model that wrote it and mark the turn answered; return its identifier, empty in a duplicate.

        A `message_id` of one's own is made by `palaver.new_id`, so that it sorts after the question's.
        """
        flags = self._experiments()
        if flags is not None and not self._silent:
            # Who was answered has seen the variant, whatever else decided about the model.
            flags.expose(EXPERIMENT, **self._targets())
        reply_id = await super().reply(content, message_id=message_id)
        self.reply_id = reply_id or self.reply_id
        return reply_id

    async def call_tools(self, calls: Sequence[ToolCall], content: str = "") -> Message | None:
        """Store what the model asks tools to do, as an assistant's message; None in a duplicate."""
        return await self._add("assistant", content, tool_calls=list(calls))

    async def tool_result(self, call: ToolCall, content: str, *, error: str | None = None) -> Message | None:
        """Store what a tool answered to a call; None in a duplicate."""
        return await self._add("tool", content, tool_call_id=call.id, tool_name=call.name, error=error)

    async def say(self, role: Role, content: str, **more: Any) -> Message | None:
        """Store a further message of any role, such as a developer's or the system's instruction; None in a duplicate."""
        return await self._add(role, content, **more)

    async def _add(self, role: Role, content: str, **more: Any) -> Message | None:
        if self._silent:
            return None
        with refusing():
            return await self._agent_book.add(role, content, **more)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await super().__aexit__(kind, error, trace)
        await self._agent_book.tell()
