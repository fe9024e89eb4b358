"""The recorder of one turn: it measures each step, hands it to the blueprint's book, and says where a turn stopped.

Each step is stored before its line or block returns, so what is stored after a crash is how far the turn had come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson

from palaver.clock import Clock
from palaver.errors import PalaverError, Validation
from palaver.ids import new_id
from palaver.turns.refusing import refusing
from palaver.turns.steps import ApiCalled, Beginning, Book, ContextUsed, IntentFound, LlmCalled, Relevance, Reply, Step, Stop, Usage


class Turn:
    """One user message and everything until its reply.

    `duplicate` is true when the platform delivered the message before: then nothing is stored, not even by the steps,
    and `answered` says whether the first delivery got its reply; if it stopped halfway, `resume()` takes it up again.
    """

    def __init__(self, book: Book, clock: Clock) -> None:
        self._book, self._clock = book, clock
        self._beginning: Beginning | None = None
        self._silent = False
        self._arrived = self._marked = 0.0
        self._under_way: list[str] = []
        self._failed: list[_Failed] = []
        self._replied = False

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def conversation_id(self) -> str:
        return self._begun().conversation_id

    @property
    def message_id(self) -> str:
        return self._begun().message_id

    @property
    def duplicate(self) -> bool:
        return self._begun().duplicate

    @property
    def answered(self) -> bool:
        """Whether a reply is stored."""
        return self._replied or self._begun().answered

    def resume(self) -> None:
        """Record the steps of a duplicate after all, because its first delivery stopped before the reply."""
        if self._begun().answered:
            raise Validation("The turn has its reply; there is nothing to resume.", hint="Look at turn.answered first.")
        self._silent = False

    # --- steps ------------------------------------------------------------------------------------------------------

    async def relevance(
        self, *, is_relevant: bool, confidence: float | None = None, explanation: str | None = None, raw_response: str | None = None
    ) -> None:
        """Record the relevance check; its time counts from the message's arrival."""
        await self._decided("relevance", lambda took: Relevance(is_relevant, confidence, explanation, raw_response, took))

    async def intent(
        self,
        name: str,
        *,
        confidence: float | None = None,
        api_resource: str | None = None,
        api_params: Mapping[str, Any] | None = None,
        entities: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Record the intent and the entities named; its time counts from the step before."""
        await self._decided("intent", lambda took: IntentFound(name, confidence, api_resource, api_params or {}, entities, took))

    async def context(self, content: Mapping[str, Any]) -> None:
        """Record what the model is told beside the question: history, preferences, entities."""
        await self.record(ContextUsed(content))

    def api_call(self, endpoint: str, parameters: Mapping[str, Any] | None = None) -> ApiCall:
        """Measure and record a call of an outside service: `async with turn.api_call(...) as call: call.response(200, body)`."""
        return ApiCall(self, endpoint, parameters or {})

    def llm_call(self, *, provider: str, model: str, purpose: str) -> LlmCall:
        """Measure and record a call of a language model: `async with turn.llm_call(...) as call: call.result(...)`."""
        return LlmCall(self, provider, model, purpose)

    async def reply(self, content: str, *, message_id: str | None = None) -> str:
        """Store the reply and mark the turn answered; return the reply's identifier, empty in a duplicate.

        A second reply is a further part of the same answer and is not counted as another.
        """
        self._begun()
        if self._silent:
            return ""
        elapsed = None if self._replied else self.elapsed()
        with self._step("reply"), refusing():
            reply_id = await self._book.answer(Reply(content, message_id, elapsed))
        self._replied = True
        return reply_id

    async def record(self, step: Step) -> None:
        """Store one finished step."""
        self._begun()
        if not self._silent:
            with refusing():
                await self._book.record(step)

    async def _decided(self, name: str, make: Any) -> None:
        with self._step(name):
            await self.record(make(milliseconds(self._clock.monotonic() - self._marked)))
        # Storing the step is not part of the next one.
        self._marked = self._clock.monotonic()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Have a step under way; several may be at once."""
        self._under_way.append(name)
        try:
            yield
        except BaseException as error:
            self._failed.append(_Failed(name, error))
            raise
        finally:
            self._under_way.remove(name)

    def elapsed(self) -> float:
        """Return milliseconds since the message arrived."""
        self._begun()
        return milliseconds(self._clock.monotonic() - self._arrived)

    # --- beginning and end ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._beginning is not None:
            raise Validation("This turn was begun before.", hint="Make one for each message: `async with ….turn(...) as turn`.")
        self._arrived = self._clock.monotonic()
        with refusing():
            self._beginning = await self._book.begin()
        self._silent = self._beginning.duplicate
        self._marked = self._clock.monotonic()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._silent or (error is None and self._replied):
            return
        try:
            await self._book.stop(self._stopped(error))
        except PalaverError as failure:
            if error is None:
                raise
            # What went wrong first is what the caller has to see.
            error.add_note(f"The end of the turn could not be stored: {failure.code}.")

    def _stopped(self, error: BaseException | None) -> Stop:
        failed, self._failed = self._failed, []
        last = self._under_way[-1] if self._under_way else None
        if error is None:
            return Stop(last, None, False, self.elapsed())
        causes = _causes(error)
        # An exception that was caught does not say where another one came from.
        known = next((each for each in failed if any(each.error is cause for cause in causes)), None)
        name = type(causes[0] if len(causes) == 1 else error).__name__
        return Stop(known.step if known else last, name, known is not None and known.counted, self.elapsed())

    def _begin_block(self, name: str) -> float:
        self._begun()
        self._under_way.append(name)
        return self._clock.monotonic()

    async def _end_block(self, name: str, step: Step, error: BaseException | None) -> None:
        self._under_way.remove(name)
        if error is None:
            with self._step(name):
                await self.record(step)
            return
        failed = _Failed(name, error)
        self._failed.append(failed)
        try:
            await self.record(step)
            failed.counted = True
        except PalaverError as failure:
            error.add_note(f"The failed call could not be stored: {failure.code}.")

    @property
    def clock(self) -> Clock:
        return self._clock

    def _begun(self) -> Beginning:
        if self._beginning is None:
            raise Validation("The turn has not begun.", hint="Use it as `async with ….turn(...) as turn`.")
        return self._beginning


@dataclass
class _Failed:
    """A step an exception came out of; `counted` where it is stored as a failed call."""

    step: str
    error: BaseException
    counted: bool = False


def _causes(error: BaseException) -> list[BaseException]:
    """Return the exceptions of a group, of groups in groups as well; of anything else, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [cause for each in error.exceptions for cause in _causes(each)]


class ApiCall:
    """One call of an outside service, from entering the block to leaving it."""

    def __init__(self, turn: Turn, endpoint: str, parameters: Mapping[str, Any]) -> None:
        self._turn, self._endpoint, self._parameters = turn, endpoint, parameters
        self.id = new_id()
        self._status: int | None = None
        self._body: Any = None
        self._size: int | None = None

    def response(self, status_code: int, body: Any = None, *, size: int | None = None) -> None:
        """Note the answer; a status from 400 on is a failure. `size` is that of the body as received, if known."""
        if not isinstance(status_code, int):
            raise Validation("The status of an answer is an integer, such as 200.", field="status_code")
        self._status, self._body = status_code, body
        self._size = size if size is not None else _size(body)

    async def __aenter__(self) -> Self:
        self._at = self._turn.clock.now()
        self._started = self._turn._begin_block("api_call")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        took = milliseconds(self._turn.clock.monotonic() - self._started)
        answered = self._status is not None and self._status < 400
        reason = kind.__name__ if kind else None if answered else f"HTTP {self._status}" if self._status else "NoResponse"
        step = ApiCalled(
            self.id,
            self._endpoint,
            self._parameters,
            self._at,
            self._status,
            reason is None,
            reason,
            self._body,
            self._size,
            took,
        )
        await self._turn._end_block("api_call", step, error)


class LlmCall:
    """One call of a language model, from entering the block to leaving it."""

    def __init__(self, turn: Turn, provider: str, model: str, purpose: str) -> None:
        self._turn, self._provider, self._model, self._purpose = turn, provider, model, purpose
        self.id = new_id()
        self._prompt: Any = None
        self._response: Any = None
        self._usage = Usage()
        self._metadata: Mapping[str, Any] = {}
        self._answered = False

    def prompt(self, prompt: Any) -> None:
        """Note what is sent, so that it is stored even when no answer comes."""
        self._prompt = prompt

    def result(
        self,
        prompt: Any,
        response: Any,
        usage: Usage | Mapping[str, Any] | object | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what was sent, what came back, and the tokens it took."""
        self._prompt, self._response, self._usage = prompt, response, Usage.of(usage)
        self._metadata, self._answered = metadata or {}, True

    async def __aenter__(self) -> Self:
        self._at = self._turn.clock.now()
        self._started = self._turn._begin_block("llm_call")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        took = milliseconds(self._turn.clock.monotonic() - self._started)
        reason = kind.__name__ if kind else None if self._answered else "NoResponse"
        step = LlmCalled(
            self.id,
            self._provider,
            self._model,
            self._purpose,
            self._at,
            self._prompt,
            self._response,
            self._usage,
            reason is None,
            reason,
            took,
            self._metadata,
        )
        await self._turn._end_block("llm_call", step, error)


def milliseconds(seconds: float) -> float:
    """Return milliseconds to the microsecond."""
    return round(seconds * 1000, 3)


def _size(body: Any) -> int | None:
    """Return the bytes of a body as JSON; None for none, and for what is no JSON, which storing it will refuse."""
    if body is None:
        return None
    if isinstance(body, bytes | bytearray):
        return len(body)
    if isinstance(body, str):
        return len(body.encode("utf-8", "surrogatepass"))
    try:
        return len(orjson.dumps(body))
    except TypeError:
        return None
