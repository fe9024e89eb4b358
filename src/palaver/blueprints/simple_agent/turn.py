"""The recorder of one turn of the agent: `palaver.turns.Turn` with who is asking, which model answers, and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palaver.blueprints.simple_agent.recording import TurnBook
from palaver.blueprints.simple_agent.schema import Message, Role, ToolCall
from palaver.clock import Clock
from palaver.turns.recorder import Turn
from palaver.turns.refusing import refusing


class AgentTurn(Turn):
    """One user message and everything until its reply: `async with agent.message(...) as turn`."""

    def __init__(self, book: TurnBook, clock: Clock, default_model: str) -> None:
        super().__init__(book, clock)
        self._agent_book, self._default_model = book, default_model
        self.reply_id = ""
        """The identifier of the last reply, empty before one."""

    @property
    def user_id(self) -> str:
        """Whose turn it is, on whatever channel."""
        return self._agent_book.known.user.user_id

    @property
    def model(self) -> str:
        """The model that answers: the conversation's own, else the one the user prefers, else the channel's, else the default."""
        return self._agent_book.known.model(self._default_model)

    async def reply(self, content: str, *, message_id: str | None = None) -> str:
        """Store the reply with the model that wrote it and mark the turn answered; return its identifier, empty in a duplicate."""
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
