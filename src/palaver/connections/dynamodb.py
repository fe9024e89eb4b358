"""DynamoDB and its streams: calls as dicts of the wire, and the one loop that decides whether a call is tried again.

What a request asks for is the engine's business; here it is signed, sent, timed, checked, and its failures are named.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from zlib import crc32

import orjson

from palaver.clock import Clock, SystemClock, us_of
from palaver.connections.aws_credentials import Credentials, CredentialSource, credential_source
from palaver.connections.dynamodb_endpoints import Endpoint, endpoints
from palaver.connections.dynamodb_errors import (
    ConditionalCheckFailed,
    Failure,
    Reason,
    Remedy,
    TransactionCancelled,
    damaged,
    is_read,
    lost,
    refused,
)
from palaver.connections.dynamodb_http import Lost, Pool, Reply
from palaver.connections.dynamodb_signing import Signer
from palaver.errors import ConfigError, OutcomeUnknown, PalaverError, Throttled, Validation

__all__ = ["ConditionalCheckFailed", "Credentials", "DynamoClient", "Pace", "Reason", "TransactionCancelled"]

_log = logging.getLogger("palaver.dynamodb")
_STREAMS = frozenset(("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"))
_SKEW_S = 60


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long: pauses grow from `base_s` to `cap_s` and each is drawn from nothing to that (full jitter)."""

    attempts: int = 10
    base_s: float = 0.025
    cap_s: float = 1.0
    #: A request that may be repeated is given up after this long, so that one dead connection does not eat the whole deadline.
    attempt_s: float = 5.0
    connect_s: float = 3.0
    idle_s: float = 20.0
    age_s: float = 300.0


class _Service:
    """One of the two services: its connections and its signer."""

    def __init__(self, endpoint: Endpoint, region: str, target: str, tls: ssl.SSLContext | None, pool: int, pace: Pace) -> None:
        self.pool = Pool(endpoint, tls, limit=pool, connect_s=pace.connect_s, idle_s=pace.idle_s, age_s=pace.age_s)
        self.signer = Signer(endpoint, region, target)


class DynamoClient:
    """Calls DynamoDB in one region. It belongs to the event loop that opened it."""

    def __init__(
        self,
        services: tuple[_Service, _Service],
        credentials: CredentialSource,
        *,
        deadline_s: float,
        pace: Pace,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        draw: Callable[[], float],
    ) -> None:
        self._main, self._streams = services
        self._credentials = credentials
        self._deadline_s = deadline_s
        self._pace = pace
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._time = asyncio.get_running_loop().time
        self._offset_s = 0
        self._date: bytes | None = None
        #: How often a call was tried again, by reason; for health and monitoring.
        self.retried: Counter[str] = Counter()

    @classmethod
    async def open(
        cls,
        region: str,
        *,
        endpoint: str | None = None,
        credentials: Credentials | None = None,
        pool: int = 32,
        deadline_s: float = 10.0,
        pace: Pace | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> DynamoClient:
        """Find endpoint and credentials; nothing is sent yet.

        Raises ConfigError for a region, endpoint or credentials that cannot work, Unauthenticated when a role or profile gives none.
        """
        if pool < 1 or deadline_s <= 0:
            raise ConfigError("The DynamoDB client needs a pool of at least 1 and a deadline above 0.")
        main, streams = endpoints(region, endpoint, os.environ)
        source = await credential_source(credentials, os.environ, region)
        tls = await asyncio.to_thread(_trust) if main.tls or streams.tls else None
        pace = pace or Pace()
        services = (
            _Service(main, region, "DynamoDB_20120810", tls if main.tls else None, pool, pace),
            _Service(streams, region, "DynamoDBStreams_20120810", tls if streams.tls else None, pool, pace),
        )
        return cls(services, source, deadline_s=deadline_s, pace=pace, clock=clock or SystemClock(), sleep=sleep, draw=draw)

    async def call(
        self,
        operation: str,
        body: dict[str, Any],
        *,
        idempotent: bool = True,
        deadline_s: float | None = None,
        payload: bytes | None = None,
    ) -> dict[str, Any]:
        """Carry out one operation and return its answer in wire form. `payload` is the body as text, where that is known.

        Tried again, with pauses and until the deadline, while it is certain that nothing was done; after an attempt whose outcome
        is unknown only when `idempotent`. Raises ConditionalCheckFailed and TransactionCancelled (internal to the engine), and of
        the tree: OutcomeUnknown whenever a write of this call may have been carried out although no attempt succeeded, Throttled,
        Conflict, InProgress, Unavailable, Validation, NotProvisioned, Trimmed, Corruption, Unauthenticated, Forbidden, ConfigError.
        """
        service = self._streams if operation in _STREAMS else self._main
        payload = payload or _encoded(operation, body)
        idempotent = idempotent or is_read(operation)
        until = self._clock.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        tries: _Tries | None = None
        while True:
            credentials, reply = self._credentials.current(), None
            try:
                reply = await self._send(service, operation, payload, credentials, until, idempotent)
            except Lost as gone:
                failure = lost(operation, gone.kind, sent=gone.sent, stale=gone.stale, error=gone.error)
            else:
                checksum = reply.headers.get(b"x-amz-crc32")
                if checksum is not None and checksum != b"%d" % crc32(reply.body):
                    failure = damaged(operation)
                elif reply.status == 200:
                    self._date = reply.headers.get(b"date")
                    return orjson.loads(reply.body)  # type: ignore[no-any-return]
                else:
                    failure = refused(operation, str(body.get("TableName", "")), reply.status, reply.body)
            tries = tries or _Tries(self, operation, until, idempotent)
            await tries.after(failure, reply, credentials)

    async def _send(
        self, service: _Service, operation: str, payload: bytes, credentials: Credentials, until: float, idempotent: bool
    ) -> Reply:
        now, left = self._time(), until - self._clock.monotonic()
        pool = service.pool
        connection = pool.take() or await pool.connect(now + left)
        try:
            head = service.signer.head(operation, payload, credentials, us_of(self._clock) // 1_000_000 + self._offset_s)
            return await connection.ask(head + payload, now + (min(left, self._pace.attempt_s) if idempotent else left))
        finally:
            pool.give(connection)

    def encoded_batch(self, requests: dict[str, list[dict[str, Any]]]) -> bytes:
        """Return what `batch_write` sends first, as text."""
        return _encoded("BatchWriteItem", {"RequestItems": requests})

    async def batch_write(
        self, requests: dict[str, list[dict[str, Any]]], *, deadline_s: float | None = None, payload: bytes | None = None
    ) -> None:
        """Write and delete up to 25 items, each by itself, until the service has taken all of them.

        What it leaves unprocessed is sent again after a pause. Raises what `call` raises, and Throttled (`left` says how many
        items) when some are still unprocessed at the deadline; the others are written.
        """
        tries = self._rounds("BatchWriteItem", deadline_s)
        left = requests
        while left:
            answer = await self.call("BatchWriteItem", {"RequestItems": left}, deadline_s=tries.left_s(), payload=payload)
            left, payload = answer.get("UnprocessedItems") or {}, None
            if left:
                await tries.after(_unprocessed("BatchWriteItem", sum(map(len, left.values()))), None, None)

    async def batch_get(self, requests: dict[str, dict[str, Any]], *, deadline_s: float | None = None) -> dict[str, list[dict[str, Any]]]:
        """Read up to 100 items by key until the service has answered for all of them; per table, in no order, missing ones left out.

        Raises what `call` raises, and Throttled when some keys are still unprocessed at the deadline.
        """
        tries = self._rounds("BatchGetItem", deadline_s)
        found: dict[str, list[dict[str, Any]]] = {table: [] for table in requests}
        left = requests
        while left:
            answer = await self.call("BatchGetItem", {"RequestItems": left}, deadline_s=tries.left_s())
            for table, items in answer.get("Responses", {}).items():
                found[table] += items
            left = answer.get("UnprocessedKeys") or {}
            if left:
                await tries.after(_unprocessed("BatchGetItem", sum(len(each["Keys"]) for each in left.values())), None, None)
        return found

    def _rounds(self, operation: str, deadline_s: float | None) -> _Tries:
        return _Tries(self, operation, self._clock.monotonic() + (self._deadline_s if deadline_s is None else deadline_s), True)

    def skew_s(self) -> float | None:
        """Return how far the service's clock is ahead, by the answer that just came, in whole seconds; None where it did not tell."""
        if self._date is None:
            return None
        try:
            return parsedate_to_datetime(self._date.decode("latin-1")).timestamp() - us_of(self._clock) // 1_000_000
        except ValueError:
            return None

    def _correct_clock(self, reply: Reply | None) -> bool:
        """Take over the server's time where ours differs by more than a request may; say whether that changed anything."""
        date = reply.headers.get(b"date") if reply is not None else None
        if date is None:
            return False
        try:
            theirs = parsedate_to_datetime(date.decode("latin-1")).timestamp()
        except ValueError:
            return False
        offset = int(theirs) - us_of(self._clock) // 1_000_000
        if abs(offset - self._offset_s) <= _SKEW_S:
            return False
        _log.warning("The clock differs from DynamoDB's by %d seconds; requests are signed with theirs.", offset)
        self._offset_s = offset
        return True

    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight up to a deadline, close every connection."""
        await asyncio.gather(self._main.pool.aclose(self._deadline_s), self._streams.pool.aclose(self._deadline_s))
        await self._credentials.aclose()


class _Tries:
    """What one call has met so far. `after` returns when it may be tried again, and raises its error when not."""

    def __init__(self, client: DynamoClient, operation: str, until: float, idempotent: bool) -> None:
        self._client = client
        self._operation = operation
        self._until = until
        self._idempotent = idempotent
        self._failed = 0
        self._corrected: set[Remedy] = set()
        self._rushed = False
        #: An attempt of a write got no answer, so that whatever comes after it, it may have been carried out.
        self._unknown = False

    def left_s(self) -> float:
        return self._until - self._client._clock.monotonic()

    async def after(self, failure: Failure, reply: Reply | None, credentials: Credentials | None) -> None:
        client, pace = self._client, self._client._pace
        self._failed += 1
        self._unknown |= failure.remedy is Remedy.IF_IDEMPOTENT and not is_read(self._operation)
        if not await self._can_help(failure, reply, credentials):
            raise self._final(failure)
        pause = 0.0
        if failure.remedy in self._corrected or (failure.at_once and not self._rushed):
            self._rushed = True
        else:
            pause = client._draw() * min(pace.cap_s, pace.base_s * 2 ** (self._failed - 1))
        if self._failed >= pace.attempts or pause >= self.left_s():
            raise self._final(failure)
        client.retried[failure.kind] += 1
        _log.debug("%s: attempt %d failed (%s), again in %.3f s", self._operation, self._failed, failure.kind, pause)
        if pause:
            await client._sleep(pause)

    async def _can_help(self, failure: Failure, reply: Reply | None, credentials: Credentials | None) -> bool:
        match failure.remedy:
            case Remedy.AGAIN:
                return True
            case Remedy.IF_IDEMPOTENT:
                return self._idempotent
            case Remedy.NONE:
                return False
            case remedy if remedy in self._corrected:
                return False
            case Remedy.CLOCK:
                self._corrected.add(Remedy.CLOCK)
                return self._client._correct_clock(reply)
            case Remedy.CREDENTIALS:
                self._corrected.add(Remedy.CREDENTIALS)
                return await self._renewed(failure, credentials)
        return False

    async def _renewed(self, failure: Failure, credentials: Credentials | None) -> bool:
        try:
            async with asyncio.timeout(self.left_s()):
                return credentials is not None and await self._client._credentials.renew(credentials)
        except (TimeoutError, PalaverError) as error:
            failure.error.__cause__ = error
            return False

    def _final(self, failure: Failure) -> Exception:
        error = failure.error
        if not self._unknown or isinstance(error, (ConditionalCheckFailed, TransactionCancelled, OutcomeUnknown)):
            return error
        unknown = OutcomeUnknown(f"{self._operation} may have been carried out by an attempt without an answer.", operation=self._operation)
        unknown.__cause__ = error
        return unknown


def _unprocessed(operation: str, count: int) -> Failure:
    error = Throttled(f"{operation} left {count} items unprocessed.", reason="unprocessed", left=count, operation=operation)
    return Failure("unprocessed", error, Remedy.AGAIN)


def _encoded(operation: str, body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        # orjson's own text may quote the value.
        raise Validation(f"{operation} holds a value that no JSON can carry, such as half a surrogate pair.") from None


def _trust() -> ssl.SSLContext:
    """Return what decides whom to trust: the system's authorities, or the file AWS_CA_BUNDLE names."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    try:
        context = ssl.create_default_context(cafile=bundle or None)
    except (OSError, ssl.SSLError):
        raise ConfigError("The file AWS_CA_BUNDLE names cannot be read as certificates.") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
