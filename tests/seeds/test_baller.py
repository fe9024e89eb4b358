"""Baller's design as written: what is wrong with it, finding by finding, and that nothing of it was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palaver.blueprints.baller import SCHEMA
from palaver.blueprints.baller.schema import API_OBJECT, CONTEXT_OBJECT, LLM_OBJECT
from palaver.declared import Declared
from palaver.design import Design, diagnose
from palaver.markers import Instant
from tools.answers import attributes

DESIGN: dict[str, Any] = json.loads(Path(__file__).with_name("baller.json").read_text(encoding="utf-8"))

FINDINGS = {
    "aggregate_doubles": ["metrics aggregated daily"],
    "average_stored": ["conversations.metrics.average_response_time", "metrics.avg"],
    "date_partition": ["metrics"],
    "digits_as_text": ["messages.message_id"],
    "dotted_index_part": ["messages.IntentIndex"],
    "expiry_without_cascade": ["messages", "api-interactions", "llm-interactions"],
    "few_partitions": [
        "conversations.CreatedAtIndex",
        "llm-interactions.ProviderModelIndex",
        "llm-interactions.PurposeIndex",
        "feedback.AppModeIndex",
        "entity-cache",
        "metrics.CategoryIndex",
        "metrics.AppModeIndex",
    ],
    "grouping_outside_key": ["metrics.app_mode"],
    "index_rewritten": ["conversations.ServerIndex"],
    "instant_without_unit": [
        "conversations.ttl",
        "messages.ttl",
        "api-interactions.ttl",
        "llm-interactions.ttl",
        "feedback.ttl",
        "entity-cache.ttl",
    ],
    "key_may_be_missing": ["preferences.server_id"],
    "leading_slash": ["api-responses", "llm-interactions", "message-contexts"],
    "list_grows": ["conversations.messages", "metrics.values"],
    "list_looked_up": ["entity-cache.aliases"],
    "no_range_key": ["entity-cache.NameIndex"],
    "no_subject_in_path": ["api-responses", "llm-interactions", "message-contexts"],
    "no_time_in_index": ["llm-interactions.ProviderModelIndex"],
    "object_retention_differs": ["api-responses", "llm-interactions"],
    "percentile_stored": ["metrics.p50", "metrics.p90", "metrics.p99"],
    "personal_without_retention": ["preferences", "feedback"],
    "reserved_word": [
        "conversations.ttl",
        "conversations.metrics",
        "messages.timestamp",
        "messages.ttl",
        "messages.intent.name",
        "api-interactions.timestamp",
        "api-interactions.ttl",
        "llm-interactions.timestamp",
        "llm-interactions.ttl",
        "feedback.ttl",
        "entity-cache.name",
        "entity-cache.ttl",
        "metrics.values",
        "metrics.count",
        "metrics.min",
        "metrics.max",
        "metrics.avg",
    ],
    "search_all_fields": ["conversations", "feedback-analytics"],
    "search_without_retention": ["conversations", "feedback-analytics"],
    "single_rater_key": ["feedback"],
    "store_without_condition": ["user message received", "API call made", "LLM response generated", "feedback received"],
    "update_upserts": ["relevance check performed", "intent detected", "bot response sent"],
    "url_as_partition": ["api-interactions.EndpointIndex"],
    "zone_unstated": ["api-responses", "llm-interactions", "message-contexts"],
}

REPLACED = {
    "baller-conversations.messages": "messages are records; the last n are a query",
    "baller-conversations.metrics.average_response_time": "response_time_sum and response_time_count",
    "baller-metrics.values": "buckets, which add up",
    "baller-metrics.avg": "sum and count",
    "baller-metrics.p50": "derived from buckets",
    "baller-metrics.p90": "derived from buckets",
    "baller-metrics.p99": "derived from buckets",
}


def test_the_design_has_exactly_these_flaws() -> None:
    expected = {(code, where if " " in where else f"baller-{where}") for code, places in FINDINGS.items() for where in places}
    assert expected == {(found.code, found.where) for found in diagnose(DESIGN)}


def test_every_finding_says_why_and_what_to_do() -> None:
    assert all(found.reason.endswith(".") and found.remedy.endswith(".") for found in diagnose(DESIGN))


def test_a_design_without_flaws_has_no_findings() -> None:
    table = {
        "name": "notes",
        "partition": "user_id",
        "range": "note_id",
        "attributes": {"user_id": {"type": "String"}, "note_id": {"type": "String"}},
    }
    assert [] == diagnose({"name": "notes", "tables": [table]})


@pytest.mark.parametrize("table", Design.model_validate(DESIGN).tables, ids=lambda table: table.name)
def test_every_table_attribute_and_index_of_the_design_is_declared(table: Any) -> None:
    declared = SCHEMA.tables[table.name]
    assert {index.name for index in table.indexes} <= {index.name for index in declared.table.indexes}
    for name, attribute in table.attributes.items():
        _is_declared(declared, table.name, (name,), attribute)


COLUMNS = {"String": {"text"}, "Number": {"int", "float", "number"}, "Boolean": {"bool"}, "Map": {"json"}, "List": {"json"}}
CHANGED_INDEXES = {
    "baller-api-interactions/EndpointIndex": (["endpoint_template"], ["timestamp"]),
    "baller-llm-interactions/ProviderModelIndex": (["provider"], ["model", "timestamp"]),
    "baller-entity-cache/NameIndex": (["entity_type", "normalized_name"], []),
}


@pytest.mark.parametrize("table", Design.model_validate(DESIGN).tables, ids=lambda table: table.name)
def test_attributes_have_the_designed_types_and_indexes_the_designed_parts(table: Any) -> None:
    declared = SCHEMA.tables[table.name]
    for name, attribute in table.attributes.items():
        if f"{table.name}.{name}" in REPLACED or name == "s3_reference":  # a reference and its value are one field
            continue
        spec = declared.by_stored[name]
        assert spec.kind.column in COLUMNS[attribute.type], name
        assert ({"instant": "ms", "expiry": "s"}.get(attribute.holds)) == getattr(spec.marker(Instant), "unit", None), name
    paths = {path.physical: path for path in declared.access.values()}
    for index in table.indexes:
        designed = ([index.partition], [index.range] if index.range else [])
        path = paths[index.name]
        built = ([part.path for part in path.partition], [part.path for part in path.sort])
        assert CHANGED_INDEXES.get(f"{table.name}/{index.name}", designed) == built


def _is_declared(declared: Declared, table: str, steps: tuple[str, ...], attribute: Any) -> None:
    where = ".".join((table, *steps))
    if where in REPLACED:
        return
    spec = declared.by_stored[steps[0]]
    if len(steps) > 1:
        assert spec.kind.model is not None, where
        assert steps[1] in spec.kind.model.model_fields, where
    for name, field in attribute.fields.items():
        _is_declared(declared, table, (*steps, name), field)


def test_the_buckets_paths_are_the_readable_part_of_object_keys() -> None:
    built = [API_OBJECT, LLM_OBJECT, CONTEXT_OBJECT]
    for bucket, path in zip(DESIGN["buckets"], built, strict=True):
        assert f"{bucket['name']}{bucket['path']}" == path.replace("{timestamp:%Y/%m/%d}", "{year}/{month}/{day}")


def test_the_search_indexes_of_the_design_are_declared() -> None:
    assert {search["name"] for search in DESIGN["searches"]} == set(SCHEMA.searches)


@pytest.mark.parametrize("search", Design.model_validate(DESIGN).searches, ids=lambda search: search.name)
def test_what_a_search_index_is_designed_to_hold_is_searched_or_a_filter(search: Any) -> None:
    [table] = [table for table in Design.model_validate(DESIGN).tables if table.name == search.all_fields_of]
    [source] = [source for source in SCHEMA.searches[search.name].sources if source.declared.table.name == table.name]
    held = {name for name, *_ in (*source.text, *source.filters)}
    for path, attribute in attributes(table.attributes):
        # What is over is no hit, and free-form maps and what was replaced are nothing to search by.
        if attribute.holds != "expiry" and attribute.type not in ("Map", "List") and f"{table.name}.{path}" not in REPLACED:
            assert path in held, path


def test_the_schema_as_built_has_no_findings() -> None:
    assert () == SCHEMA.diagnostics
