"""The steps between a question and its answer, as values; a blueprint's book says how each is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from palaver.errors import Validation

PROMPT = ("prompt_tokens", "input_tokens", "prompt_token_count", "inputTokens")
COMPLETION = ("completion_tokens", "output_tokens", "candidates_token_count", "outputTokens")
TOTAL = ("total_tokens", "total_token_count", "totalTokens")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call of a language model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def of(cls, given: Usage | Mapping[str, Any] | object | None) -> Usage:
        """Read what providers call usage: a mapping or an object that counts prompt or input, completion or output tokens.

        None counts nothing. Raises Validation for what has none of these counts, and for a count that is no number of tokens.
        """
        if given is None:
            return cls()
        if not any(_holds(given, name) for name in (*PROMPT, *COMPLETION, *TOTAL)):
            what = type(given).__name__
            raise Validation(f"No tokens are counted in this {what}.", hint="Give prompt_tokens and completion_tokens, or None.")
        prompt, completion = _count(given, PROMPT), _count(given, COMPLETION)
        return cls(prompt, completion, _count(given, TOTAL) or prompt + completion)


def _holds(given: object, name: str) -> bool:
    return name in given if isinstance(given, Mapping) else hasattr(given, name)


def _count(given: object, names: Sequence[str]) -> int:
    for name in names:
        found = given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
        if found is None:
            continue
        if not isinstance(found, int) or found < 0:
            raise Validation(f"{name} is a number of tokens: an integer from 0 on.", field=name)
        return found
    return 0


@dataclass(frozen=True, slots=True)
class Relevance:
    """Whether the message is any business of the bot's."""

    is_relevant: bool
    confidence: float | None
    explanation: str | None
    raw_response: str | None
    latency: float


@dataclass(frozen=True, slots=True)
class IntentFound:
    """What the user wants, and the entities named."""

    name: str
    confidence: float | None
    api_resource: str | None
    api_params: Mapping[str, Any]
    entities: Sequence[Mapping[str, Any]]
    latency: float


@dataclass(frozen=True, slots=True)
class ContextUsed:
    """What the model was told beside the question: history, preferences, entities."""

    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApiCalled:
    """One call of an outside service, ended or failed. `error` is a class or reason name, never a text with values."""

    id: str
    endpoint: str
    parameters: Mapping[str, Any]
    at: datetime
    status_code: int | None
    success: bool
    error: str | None
    response: Any
    size: int | None
    latency: float


@dataclass(frozen=True, slots=True)
class LlmCalled:
    """One call of a language model, ended or failed."""

    id: str
    provider: str
    model: str
    purpose: str
    at: datetime
    prompt: Any
    response: Any
    usage: Usage
    success: bool
    error: str | None
    latency: float
    metadata: Mapping[str, Any] = field(default_factory=dict)


Step: TypeAlias = Relevance | IntentFound | ContextUsed | ApiCalled | LlmCalled


@dataclass(frozen=True, slots=True)
class Reply:
    """What the user got. `elapsed` counts from the arrival of the question; None for a later part of the same answer."""

    content: str
    message_id: str | None
    elapsed: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """How a turn ended without a reply: the step under way, and the class of the exception if there was one.

    `counted`: the exception came out of a call that is stored as a failed one, and is counted with it.
    """

    at: str | None
    error: str | None
    counted: bool
    elapsed: float


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a turn began: `duplicate` when the same message was delivered before, `answered` when it has its reply."""

    conversation_id: str
    message_id: str
    duplicate: bool = False
    answered: bool = False


class Book(Protocol):
    """Where a blueprint writes one turn. Each method is durable when it returns, in one commit."""

    async def begin(self) -> Beginning:
        """Store the message, once however often it is delivered."""
        ...

    async def record(self, step: Step) -> None: ...

    async def answer(self, reply: Reply) -> str:
        """Store the reply and mark the turn answered; return the reply's identifier."""
        ...

    async def stop(self, stop: Stop) -> None:
        """Mark a turn that ended without a reply; steps that are stored later leave that mark."""
        ...


def step_name(step: Step) -> str:
    """Return what a stored turn calls this step."""
    match step:
        case Relevance():
            return "relevance"
        case IntentFound():
            return "intent"
        case ContextUsed():
            return "context"
        case ApiCalled():
            return "api_call"
        case LlmCalled():
            return "llm_call"
