"""The OpenFeature provider through its SDK's own client: values, reasons, variants, errors, events; blocking and not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus

import palaver
from palaver.cache.none import NoCache
from palaver.errors import ConfigError
from palaver.flags import Flags
from palaver.integrations.openfeature import PalaverProvider
from palaver.store import Store
from palaver.testing.faulty import Faults, Faulty
from tests.engines.redis_servers import until
from tests.flags.app import FLAGS, GREETING, LENGTH, MCP, MODEL, MODELS, NEW_PROMPT, SCHEMA, SLASH, TEMPERATURE, Exposure, FeatureFlag


@pytest.fixture
async def faulty() -> AsyncIterator[tuple[Store, Faulty]]:
    async with palaver.open("memory:", schema=SCHEMA) as opened:
        faulty = Faulty(opened.core.records, 1)
        opened.core.records = faulty
        yield Store(opened.core), faulty


@pytest.fixture
async def flags(faulty: tuple[Store, Faulty]) -> AsyncIterator[Flags]:
    async with Flags.open(faulty[0], FLAGS, FeatureFlag, exposures=Exposure, cache=NoCache(), poll_s=0.05) as flags:
        yield flags


@pytest.fixture
async def client(flags: Flags) -> AsyncIterator[OpenFeatureClient]:
    api.set_provider_and_wait(PalaverProvider(flags, expose=True))
    yield api.get_client()
    api.clear_providers()


ANN = EvaluationContext("ann", {"channel": "discord", "plan": "pro", "age": 5.5})


async def test_values_come_with_reason_variant_and_metadata(flags: Flags, client: OpenFeatureClient) -> None:
    made = await flags.set(SLASH, True, channel="discord")
    await flags.set(LENGTH, 5)
    await flags.roll_out(NEW_PROMPT, 100)
    found: Any = client.get_boolean_details(SLASH.name, False, ANN)
    assert (True, Reason.TARGETING_MATCH, None) == (found.value, found.reason, found.error_code)
    revision = found.flag_metadata.pop("revision")
    assert {"flagSetId": "flags", "reason": "target", "scope": "channel"} == found.flag_metadata
    assert revision > 0
    assert "discord" == made.target
    assert (5, Reason.STATIC) == _told(client.get_integer_details(LENGTH.name, 0, ANN))
    assert (True, Reason.SPLIT) == _told(client.get_boolean_details(NEW_PROMPT.name, False, ANN))
    assert (False, Reason.DEFAULT) == _told(client.get_boolean_details(NEW_PROMPT.name, True))
    assert (0.7, Reason.DEFAULT) == _told(client.get_float_details(TEMPERATURE.name, 0.0))
    assert (5.0, Reason.STATIC) == _told(client.get_float_details(LENGTH.name, 0.0))
    assert ("Hello", Reason.DEFAULT) == _told(client.get_string_details(GREETING.name, ""))
    assert (MODELS.default, Reason.DEFAULT) == _told(client.get_object_details(MODELS.name, {}))
    assert (["a", "b"], Reason.DEFAULT) == _told(client.get_object_details("routes", []))
    model = client.get_string_details(MODEL.name, "", ANN)
    assert (flags.variant(MODEL, user="ann"), Reason.SPLIT) == _told(model)
    assert model.variant == model.value


async def test_it_answers_those_who_await_as_well(flags: Flags, client: OpenFeatureClient) -> None:
    await flags.set(LENGTH, 5)
    assert 5 == await client.get_integer_value_async(LENGTH.name, 0)
    assert await client.get_boolean_value_async(MCP.name, False)
    assert flags.variant(MODEL, user="ann") == await client.get_string_value_async(MODEL.name, "", ANN)
    assert 0.7 == await client.get_float_value_async(TEMPERATURE.name, 0.0)
    assert MODELS.default == await client.get_object_value_async(MODELS.name, {})


async def test_what_cannot_be_answered_is_the_callers_default_with_a_code(flags: Flags, client: OpenFeatureClient) -> None:
    unknown = client.get_boolean_details("enable_mcp_securty", True)
    assert (True, ErrorCode.FLAG_NOT_FOUND, Reason.ERROR) == (unknown.value, unknown.error_code, unknown.reason)
    assert "enable_mcp_security" in str(unknown.error_message)
    for wrong in (
        client.get_string_details(MCP.name, "x"),
        client.get_integer_details(MCP.name, 7),
        client.get_boolean_details(LENGTH.name, True),
        client.get_integer_details(TEMPERATURE.name, 7),
        client.get_object_details(GREETING.name, {}),
        client.get_float_details(GREETING.name, 1.5),
    ):
        assert (ErrorCode.TYPE_MISMATCH, Reason.ERROR) == (wrong.error_code, wrong.reason)
    nobody = client.get_string_details(MODEL.name, "mine", EvaluationContext(attributes={"channel": "web"}))
    assert ("mine", ErrorCode.TARGETING_KEY_MISSING) == (nobody.value, nobody.error_code)
    await flags.set(MODEL, "variant_b", channel="web")
    assert ("variant_b", Reason.TARGETING_MATCH) == _told(
        client.get_string_details(MODEL.name, "mine", EvaluationContext(attributes={"channel": "web"}))
    )
    await flags.set(MODEL, "variant_b")
    assert ("variant_b", Reason.STATIC) == _told(client.get_string_details(MODEL.name, "mine"))


async def test_a_security_flag_is_the_declared_default_not_the_callers(faulty: tuple[Store, Faulty]) -> None:
    """With nothing read at all, and with nonsense stored: what the program declared holds."""
    store, records = faulty
    await store.put(FeatureFlag(namespace="flags", flag=MCP.name, scope="everybody", target="*", value="off"))
    records.faults = Faults(unavailable=1.0)
    async with Flags.open(store, FLAGS, FeatureFlag, cache=NoCache(), poll_s=0.05) as flags:
        api.set_provider_and_wait(PalaverProvider(flags))
        client = api.get_client()
        for reason in ("unread", "mismatch"):
            await until(lambda reason=reason: asyncio.sleep(0, flags.evaluate(MCP).reason == reason), 5)  # type: ignore[misc]
            found = client.get_boolean_details(MCP.name, False)
            assert (True, Reason.DEFAULT, reason) == (found.value, found.reason, found.flag_metadata["reason"])
            records.faults = Faults()
        api.clear_providers()


async def test_an_evaluation_is_an_exposure_from_any_thread(faulty: tuple[Store, Faulty], flags: Flags, client: OpenFeatureClient) -> None:
    client.get_string_value(MODEL.name, "", ANN)
    await client.get_string_value_async(MODEL.name, "", EvaluationContext("ben"))
    thread = threading.Thread(target=lambda: client.get_string_value(MODEL.name, "", EvaluationContext("carl")))
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    await flags.set(MODEL, "variant_a", user="tester")
    client.get_string_value(MODEL.name, "", EvaluationContext("tester"))
    await flags.flush()
    assert {"ann", "ben", "carl"} == {one.user async for one in faulty[0].query(Exposure.by_experiment(MODEL.name))}


async def test_a_provider_that_exposes_needs_somewhere_to_store_it(faulty: tuple[Store, Faulty]) -> None:
    async with Flags.open(faulty[0], FLAGS, FeatureFlag) as flags:
        with pytest.raises(ConfigError):
            PalaverProvider(flags, expose=True)


async def test_events_tell_of_changes_and_of_records_that_are_away(
    faulty: tuple[Store, Faulty], flags: Flags, client: OpenFeatureClient
) -> None:
    heard: list[tuple[str, list[str] | None]] = []
    handlers = {event: _teller(event.value, heard) for event in ProviderEvent}
    for event, handler in handlers.items():
        api.add_handler(event, handler)

    async def told(event: str, names: list[str] | None = None) -> None:
        await until(lambda: asyncio.sleep(0, (event, names) in heard), 5)
        heard.clear()

    await told("PROVIDER_READY")
    await flags.set(SLASH, True)
    await told("PROVIDER_CONFIGURATION_CHANGED", [SLASH.name])
    faulty[1].faults = Faults(unavailable=1.0)
    await told("PROVIDER_STALE")
    assert ProviderStatus.STALE == client.get_provider_status()
    assert client.get_boolean_value(SLASH.name, False)
    faulty[1].faults = Faults()
    await told("PROVIDER_READY")
    for event, handler in handlers.items():
        api.remove_handler(event, handler)
    api.clear_providers()
    await flags.set(SLASH, False)
    assert [] == heard


def _teller(event: str, heard: list[tuple[str, list[str] | None]]) -> Any:
    def tell(details: EventDetails) -> None:
        heard.append((event, details.flags_changed))

    return tell


def _told(details: Any) -> tuple[Any, Any]:
    assert details.error_code is None, details.error_message
    return details.value, details.reason
