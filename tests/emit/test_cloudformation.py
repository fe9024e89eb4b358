"""The template: clean under cfn-lint, the tables the engine makes, and rights that name what they are for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from palaver import Blob, Expires, Expiry, History, Index, Schema, Unique, days
from palaver.blueprints.baller.schema import SCHEMA as BALLER
from palaver.blueprints.simple_agent.schema import SCHEMA as AGENT
from palaver.emit.cloudformation import template
from palaver.plan import Planner
from palaver.records import dynamo_tables
from palaver.records.dynamo_keys import Layout
from palaver.records.dynamo_tables import TableOptions
from tests.evolve.cases import entity
from tests.servers.presence import in_ci

ROOT = Path(__file__).parent.parent.parent
LINT = ROOT / ".venv" / "servers" / "bin" / "cfn-lint"
URL = {"blobs": "s3://bot-objects/live"}
SMALL = Schema(
    "small",
    [
        entity(
            "Note",
            {
                "owner": str,
                "text": str,
                "ends": (Annotated[Expiry | None, Expires()], None),
                "raw": (Annotated[str | None, Blob("{id}")], None),
            },
            table="notes",
            by_owner=Index("owner", sort="text", name="OwnerIndex"),
            one=Unique("text"),
            history=History(days(3)),
        )
    ],
)
INDEXES: dict[str, Any] = {f"by_f{m}": Index(f"f{m}") for m in range(4)}
WIDE = Schema(
    "wide",
    [entity(f"Thing{n}", {f"f{m}": str for m in range(4)}, table=f"things-{n}", **INDEXES) for n in range(40)],
)


def lint(made: dict[str, Any], folder: Path) -> tuple[int, str]:
    if not LINT.exists():
        assert not in_ci(), "cfn-lint is not installed"
        pytest.skip("cfn-lint is not installed; make test installs it")
    file = folder / "template.json"
    file.write_text(json.dumps(made))
    done = subprocess.run([LINT, file, "--regions", "eu-central-1", "us-east-1"], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "options", [URL, {}, {**URL, "encryption": "arn:aws:kms:eu-central-1:123456789012:key/1-2-3-4", "protection": "true"}]
)
@pytest.mark.parametrize("schema", [BALLER, AGENT], ids=lambda schema: schema.name)
def test_a_template_is_clean(schema: Schema, options: dict[str, str], tmp_path: Path) -> None:
    assert (0, "") == lint(template(schema, prefix="bot-", options=options), tmp_path)


def test_a_template_of_many_tables_is_clean(tmp_path: Path) -> None:
    assert (0, "") == lint(template(WIDE), tmp_path)


def test_the_linter_sees_a_mistake(tmp_path: Path) -> None:
    made = template(SMALL, options=URL)
    made["Resources"]["NotesTable"]["Properties"]["KeySchema"][0]["AttributeName"] = "elsewhere"
    code, said = lint(made, tmp_path)
    assert code
    assert "elsewhere" in said


def test_the_template_of_a_small_schema(golden: Callable[[str, str], None]) -> None:
    golden("emit/small.cloudformation.json", json.dumps(template(SMALL, prefix="app-", options=URL), indent=2) + "\n")


@pytest.mark.parametrize("schema", [BALLER, SMALL])
def test_the_tables_are_those_the_engine_asks_for(schema: Schema) -> None:
    resources = template(schema, prefix="bot-")["Resources"]
    tables = {each["Properties"]["TableName"]: each["Properties"] for each in resources.values() if each["Type"] == "AWS::DynamoDB::Table"}
    for table in Planner(schema).tables.values():
        layout = Layout(table, "bot-", expires_natively=True)
        asked = dynamo_tables.create(layout, TableOptions())
        found = tables[asked["TableName"]]
        for part in ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode"):
            assert asked.get(part) == found.get(part)
        assert bool(asked.get("StreamSpecification")) == bool(found.get("StreamSpecification"))
        assert found["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]
        natively = table.expires is not None and not layout.sweeps
        assert ({"AttributeName": table.expires, "Enabled": True} if natively else None) == found.get("TimeToLiveSpecification")
    assert "bot-palaver_engine" in tables


def statements(schema: Schema, who: str) -> Iterator[dict[str, Any]]:
    for name, each in template(schema, options=URL)["Resources"].items():
        if name.startswith(f"{who}Policy"):
            yield from each["Properties"]["PolicyDocument"]["Statement"]


@pytest.mark.parametrize("who", ["Application", "Worker", "Migrator"])
def test_nothing_is_allowed_by_wildcard(who: str) -> None:
    allowed = list(statements(BALLER, who))
    assert allowed
    for statement in allowed:
        assert "Allow" == statement["Effect"]
        assert not [action for action in statement["Action"] if "*" in action]
        for resource in statement["Resource"]:
            text = json.dumps(resource)
            # Objects have names of their own, so their right ends where the schema's objects lie.
            assert "*" not in text or "${ObjectsBucket.Arn}/live/*" in text


def test_the_application_reads_through_declared_indexes_and_changes_no_table() -> None:
    application = list(statements(SMALL, "Application"))
    actions = {action for each in application for action in each["Action"]}
    assert not {"dynamodb:Scan", "dynamodb:UpdateTable", "dynamodb:CreateTable", "dynamodb:GetRecords", "s3:DeleteObject"} & actions
    (indexes,) = [each for each in application if each["Sid"] == "Indexes"]
    assert ["dynamodb:Query"] == indexes["Action"]
    wanted = (
        "${NotesTable.Arn}/index/OwnerIndex",
        "${PalaverSystemTable.Arn}/index/palaver_due",
        "${NotesHistoryTable.Arn}/index/by_subject",
    )
    assert [{"Fn::Sub": each} for each in wanted] == indexes["Resource"]
    (images,) = [each for each in application if each["Sid"] == "Images"]
    assert "dynamodb:DeleteItem" not in images["Action"]
    worker = {action for each in statements(SMALL, "Worker") for action in each["Action"]}
    assert {"dynamodb:Scan", "dynamodb:GetRecords", "s3:DeleteObject"} <= worker
    assert "dynamodb:UpdateTable" not in worker


UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-central-1:123456789012:key/{UUID}"


@pytest.mark.parametrize(
    ("key", "resource"),
    [(ARN, ARN), (UUID, f"key/{UUID}"), ("alias/bot", "key/*"), ("arn:aws:kms:eu-central-1:123456789012:alias/bot", "key/*")],
)
def test_whoever_handles_objects_may_use_their_key_through_s3_only(key: str, resource: str, tmp_path: Path) -> None:
    made = template(SMALL, options={"blobs": f"s3://bot-objects/live?sse=aws:kms&kms_key={key}"})
    assert (0, "") == lint(made, tmp_path)
    for who in ("Application", "Worker"):
        document = made["Resources"][f"{who}Policy"]["Properties"]["PolicyDocument"]
        (found,) = [each for each in document["Statement"] if each["Sid"] == "ObjectKey"]
        assert ["kms:Decrypt", "kms:GenerateDataKey"] == found["Action"]
        assert resource in json.dumps(found["Resource"])
        assert "s3.${AWS::Region}" in json.dumps(found["Condition"])
        assert ("alias/" in key) == ("alias/bot" in json.dumps(found["Condition"]))


def test_an_object_that_is_gone_is_told_from_one_that_may_not_be_read() -> None:
    """S3 says 403 of both to whoever may not list the bucket."""
    for who in ("Application", "Worker"):
        assert ["s3:ListBucket"] in [each["Action"] for each in statements(SMALL, who) if each["Sid"] == "ObjectList"]


@pytest.mark.parametrize("versions", ["keep", "purge"])
def test_only_who_removes_every_version_may(versions: str) -> None:
    made = template(SMALL, options={"blobs": f"s3://bot-objects/live?versions={versions}"})["Resources"]
    rights = {"s3:DeleteObjectVersion", "s3:ListBucketVersions"}
    for who in ("Application", "Worker"):
        allowed = {action for each in made[f"{who}Policy"]["Properties"]["PolicyDocument"]["Statement"] for action in each["Action"]}
        assert (rights if (who, versions) == ("Worker", "purge") else set()) == rights & allowed


def resolved(statement: dict[str, Any], tables: dict[str, str]) -> dict[str, Any]:
    """Return a statement with ARNs as long as they become."""
    where = "arn:aws:dynamodb:ap-southeast-1:123456789012:table/"
    return {
        **statement,
        "Resource": [where + max(tables.values(), key=len) + "/stream/2026-01-01T00:00:00.000" for _ in statement["Resource"]],
    }


def test_a_policy_fits_into_what_iam_allows() -> None:
    resources = template(WIDE)["Resources"]
    tables = {name: each["Properties"]["TableName"] for name, each in resources.items() if each["Type"] == "AWS::DynamoDB::Table"}
    policies = [each for each in resources.values() if each["Type"] == "AWS::IAM::ManagedPolicy"]
    assert len(policies) > 6
    for each in policies:
        document = each["Properties"]["PolicyDocument"]
        text = json.dumps({**document, "Statement": [resolved(one, tables) for one in document["Statement"]]}, separators=(",", ":"))
        assert len(text) < 6144


def test_everything_that_holds_data_outlives_the_stack() -> None:
    kinds = {"AWS::DynamoDB::Table", "AWS::S3::Bucket"}
    holding = [each for each in template(BALLER, options=URL)["Resources"].values() if each["Type"] in kinds]
    assert kinds == {each["Type"] for each in holding}
    for each in holding:
        assert ("Retain", "Retain") == (each["DeletionPolicy"], each["UpdateReplacePolicy"])


def test_what_goes_wrong_alarms() -> None:
    resources = template(SMALL)["Resources"]
    metrics = {
        each["Properties"].get("MetricName", "SystemErrors") for each in resources.values() if each["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert {"ReadThrottleEvents", "WriteThrottleEvents", "SystemErrors", "IteratorAge"} == metrics
    assert "NotesTableOwnerIndexWritesThrottled" in resources
