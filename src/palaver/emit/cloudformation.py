"""A schema as a CloudFormation template: tables, the bucket, alarms, and policies that allow what is declared and no more.

Tables are described by the requests the engine itself makes them with, so that either finds what the other made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from palaver.bucket_rules import as_cloudformation, bucket_rules
from palaver.emit.alarms import alarms
from palaver.emit.permissions import policies
from palaver.plan import Planner
from palaver.records import dynamo_tables
from palaver.records.dynamo_keys import Layout
from palaver.records.dynamo_tables import OWN, TableOptions
from palaver.schema import Schema

TRUE = ("1", "true", "yes", "on")


def template(schema: Schema, *, prefix: str = "", options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the template of a schema's stack; `options` are those of the stack's URL."""
    asked = dict(options or {})
    planner = Planner(schema)
    settings = TableOptions(
        point_in_time_recovery=True, encryption=asked.get("encryption") or "kms", deletion_protection=asked.get("protection") in TRUE
    )
    natively = asked.get("expiry", "native") == "native"
    layouts = {name: Layout(table, prefix, expires_natively=natively) for name, table in planner.tables.items()}
    resources: dict[str, Any] = {logical(name): table_resource(layout, settings) for name, layout in layouts.items()}
    resources[logical(OWN)] = _resource(dynamo_tables.own_table(prefix, settings), "expires")
    bucket = _bucket(schema, asked.get("blobs", ""))
    resources |= bucket
    tables = {name: (logical(name), layout) for name, layout in layouts.items()}
    resources |= alarms({logical(name): layout for name, layout in layouts.items()}, logical(OWN))
    blobs = asked.get("blobs", "")
    objects = dict(parse_qsl(urlsplit(blobs).query)) if bucket else {}
    resources |= policies(tables, logical(OWN), _object_path(blobs) if bucket else None, _key(settings), objects)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"What schema {schema.name}, version {schema.version}, stores; made by palaver migrate plan.",
        "Parameters": _parameters(),
        "Conditions": {
            "HasAlarmTopic": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmTopic"}, ""]}]},
            "HasWorkerFunction": {"Fn::Not": [{"Fn::Equals": [{"Ref": "WorkerFunction"}, ""]}]},
        },
        "Resources": resources,
        "Outputs": _outputs(layouts, resources),
    }


def logical(name: str) -> str:
    """Return the name of a resource in the template: letters and digits only, different for different tables."""
    words = re.split(r"[^A-Za-z0-9]+", name)
    return "".join(word[:1].upper() + word[1:] for word in words if word) + "Table"


def table_resource(layout: Layout, settings: TableOptions) -> dict[str, Any]:
    """Return one table as CloudFormation says what CreateTable is told."""
    # What something goes with is the sweep's to remove: DynamoDB would leave that behind.
    return _resource(dynamo_tables.create(layout, settings), None if layout.sweeps else layout.table.expires)


def _resource(request: Mapping[str, Any], expires: str | None) -> dict[str, Any]:
    said = dict(request)
    if stream := said.pop("StreamSpecification", None):
        said["StreamSpecification"] = {"StreamViewType": stream["StreamViewType"]}
    if sealed := said.pop("SSESpecification", None):
        said["SSESpecification"] = {("SSEEnabled" if name == "Enabled" else name): value for name, value in sealed.items()}
    said["PointInTimeRecoverySpecification"] = {"PointInTimeRecoveryEnabled": True}
    if expires is not None:
        said["TimeToLiveSpecification"] = {"AttributeName": expires, "Enabled": True}
    return {"Type": "AWS::DynamoDB::Table", "DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain", "Properties": said}


def _key(settings: TableOptions) -> str | None:
    return settings.encryption if settings.encryption.startswith("arn:") else None


# --- objects --------------------------------------------------------------------------------------------------------


def _bucket(schema: Schema, blobs: str) -> dict[str, Any]:
    """Return the bucket a URL names, closed to the public and encrypted, with the schema's rules."""
    parts = urlsplit(blobs)
    if parts.scheme != "s3":
        return {}
    options = dict(parse_qsl(parts.query))
    default: dict[str, Any] = {"SSEAlgorithm": options.get("sse") or "AES256"}
    if options.get("kms_key"):
        default["KMSMasterKeyID"] = options["kms_key"]
    rule: dict[str, Any] = {"ServerSideEncryptionByDefault": default}
    if default["SSEAlgorithm"] == "aws:kms":
        rule["BucketKeyEnabled"] = True
    blocks = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    properties = {
        "BucketName": parts.netloc,
        "BucketEncryption": {"ServerSideEncryptionConfiguration": [rule]},
        "PublicAccessBlockConfiguration": dict.fromkeys(blocks, True),
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "LifecycleConfiguration": as_cloudformation(bucket_rules(schema, prefix=parts.path)),
    }
    arn = {"Fn::GetAtt": ["ObjectsBucket", "Arn"]}
    encrypted = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, {"Fn::Sub": "${ObjectsBucket.Arn}/*"}],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policy = {"Bucket": {"Ref": "ObjectsBucket"}, "PolicyDocument": {"Version": "2012-10-17", "Statement": [encrypted]}}
    return {
        "ObjectsBucket": {
            "Type": "AWS::S3::Bucket",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": properties,
        },
        "ObjectsBucketPolicy": {"Type": "AWS::S3::BucketPolicy", "Properties": policy},
    }


def _object_path(blobs: str) -> str:
    """Return the keys below which the objects lie, as the end of an ARN."""
    path = urlsplit(blobs).path.strip("/")
    return f"{path}/*" if path else "*"


# --- around ---------------------------------------------------------------------------------------------------------


def _parameters() -> dict[str, Any]:
    return {
        "AlarmTopic": {"Type": "String", "Default": "", "Description": "ARN of the SNS topic that alarms are sent to; empty for none."},
        "WorkerFunction": {
            "Type": "String",
            "Default": "",
            "Description": "Name of the Lambda function that takes the streams in; empty where `palaver work` does.",
        },
        "ApplicationService": {
            "Type": "String",
            "Default": "ecs-tasks.amazonaws.com",
            "Description": "The service that runs the application.",
        },
        "WorkerService": {"Type": "String", "Default": "lambda.amazonaws.com", "Description": "The service that runs the worker."},
    }


def _outputs(layouts: Mapping[str, Layout], resources: Mapping[str, Any]) -> dict[str, Any]:
    roles = {f"{who}RoleArn": {"Value": {"Fn::GetAtt": [f"{who}Role", "Arn"]}} for who in ("Application", "Worker")}
    migrator = {f"{name}Arn": {"Value": {"Ref": name}} for name in resources if name.startswith("MigratorPolicy")}
    streams = {
        f"{logical(name)}Stream": {"Value": {"Fn::GetAtt": [logical(name), "StreamArn"]}}
        for name, layout in layouts.items()
        if layout.table.feed
    }
    objects = {"ObjectsBucketName": {"Value": {"Ref": "ObjectsBucket"}}} if "ObjectsBucket" in resources else {}
    return {**roles, **migrator, **streams, **objects}
