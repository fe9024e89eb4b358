"""What each part of a stack may do: exactly the tables, the indexes and the actions that are declared; nothing by wildcard.

The application reads and writes records; the worker besides runs projections, sweeps and cascades, so it scans, reads
the streams and deletes objects; the migrator changes tables and sets the bucket. Transactions need the rights of what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from palaver.records.dynamo_keys import EXPIRY, Layout
from palaver.system import HISTORY

READ = ("BatchGetItem", "ConditionCheckItem", "DescribeTable", "GetItem", "Query")
WRITE = ("BatchWriteItem", "DeleteItem", "PutItem", "UpdateItem")
HISTORY_WRITE = ("BatchWriteItem", "PutItem")
STREAM = ("DescribeStream", "GetRecords", "GetShardIterator")
CHANGE = (
    "CreateTable",
    "DeleteTable",
    "DescribeContinuousBackups",
    "DescribeTable",
    "DescribeTimeToLive",
    "UpdateContinuousBackups",
    "UpdateTable",
    "UpdateTimeToLive",
)
BUCKET = (
    "GetBucketPublicAccessBlock",
    "GetBucketVersioning",
    "GetEncryptionConfiguration",
    "GetLifecycleConfiguration",
    "ListBucket",
    "PutEncryptionConfiguration",
    "PutLifecycleConfiguration",
)
LONGEST = 5_500
ARN = 60
"""Characters of an ARN beside the names in it, in the longest region's name."""
Tables = Mapping[str, tuple[str, Layout]]


def policies(tables: Tables, own: str, objects: str | None, key: str | None, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the policies and roles. `objects` ends the ARN of the objects, `options` are theirs; `key` is the KMS key of one's own."""
    opening, purging = _sealing_objects(options.get("kms_key")), options.get("versions") == "purge"
    application = [*_records(tables, own), *_sealing(key), *_objects(objects, deleting=False), *opening]
    worker = [
        *_records(tables, own, working=True),
        *_streams(tables),
        *_sealing(key),
        *_objects(objects, deleting=True, purging=purging),
        *opening,
    ]
    migrator = [*_records(tables, own, working=True), *_streams(tables), *_changing(tables, own), *_sealing(key), *_setting(objects)]
    names = {resource: layout.name for resource, layout in tables.values()}
    mine = _policies("Application", "Reads and writes records.", application, names)
    working = _policies("Worker", "Runs projections, sweeps and cascades.", worker, names)
    changing = _policies("Migrator", "Changes the tables: palaver migrate apply.", migrator, names)
    roles = {"ApplicationRole": _role("ApplicationService", list(mine)), "WorkerRole": _role("WorkerService", list(working))}
    return {**mine, **working, **changing, **roles}


def _records(tables: Tables, own: str, *, working: bool = False) -> list[dict[str, Any]]:
    """Return what is done to records: reading through declared indexes only, images of history only added to."""
    entities = [(name, resource) for resource, layout in tables.values() for name in [layout.table.name]]
    images = [resource for name, resource in entities if name.endswith(HISTORY)]
    others = [resource for name, resource in entities if not name.endswith(HISTORY)] + [own]
    statements = [
        _allow("Records", (*READ, *WRITE, *(("Scan",) if working else ())), [_arn(resource) for resource in others]),
    ]
    if images:
        writes = WRITE if working else HISTORY_WRITE
        statements.append(_allow("Images", (*READ, *writes, *(("Scan",) if working else ())), [_arn(resource) for resource in images]))
    indexes = [
        {"Fn::Sub": f"${{{resource}.Arn}}/index/{name}"}
        for resource, layout in tables.values()
        for name in (*layout.ways, *((EXPIRY,) if working and layout.sweeps else ()))
    ]
    if indexes:
        statements.append(_allow("Indexes", ("Query",), indexes))
    return statements


def _streams(tables: Tables) -> list[dict[str, Any]]:
    streams = [{"Fn::GetAtt": [resource, "StreamArn"]} for resource, layout in tables.values() if layout.table.feed]
    return [_allow("Streams", STREAM, streams)] if streams else []


def _changing(tables: Tables, own: str) -> list[dict[str, Any]]:
    return [_allow("Tables", CHANGE, [_arn(resource) for resource in (*(resource for resource, _ in tables.values()), own)])]


def _sealing(key: str | None) -> list[dict[str, Any]]:
    """The key of the account needs no right of its own; one of one's own does, and only through DynamoDB."""
    if key is None:
        return []
    allowed = _allow("Key", ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey"), [key], service="kms")
    through = {"StringEquals": {"kms:ViaService": {"Fn::Sub": "dynamodb.${AWS::Region}.amazonaws.com"}}}
    return [{**allowed, "Condition": through}]


def _sealing_objects(key: str | None) -> list[dict[str, Any]]:
    """The key objects are sealed with, by its ARN, its id or its alias, and only through S3."""
    if key is None:
        return []
    conditions: dict[str, Any] = {"StringEquals": {"kms:ViaService": {"Fn::Sub": "s3.${AWS::Region}.amazonaws.com"}}}
    name = key.rpartition(":")[2]
    resource: Any = key
    if name.startswith("alias/"):
        # A policy names keys by their own ARN; what an alias stands for is known where it is used.
        conditions["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": name}
        resource = {"Fn::Sub": "arn:${AWS::Partition}:kms:${AWS::Region}:${AWS::AccountId}:key/*"}
    elif not key.startswith("arn:"):
        resource = {"Fn::Sub": f"arn:${{AWS::Partition}}:kms:${{AWS::Region}}:${{AWS::AccountId}}:key/{key}"}
    return [{**_allow("ObjectKey", ("Decrypt", "GenerateDataKey"), [resource], service="kms"), "Condition": conditions}]


def _objects(path: str | None, *, deleting: bool, purging: bool = False) -> list[dict[str, Any]]:
    if path is None:
        return []
    actions = ["AbortMultipartUpload", "GetObject", "PutObject", *["DeleteObject"] * deleting, *["DeleteObjectVersion"] * purging]
    return [
        _allow("Objects", tuple(actions), [{"Fn::Sub": f"${{ObjectsBucket.Arn}}/{path}"}], service="s3"),
        # Without it S3 says of an object that is gone that it may not be read, to the application as well.
        _allow("ObjectList", ("ListBucket", *["ListBucketVersions"] * purging), [{"Fn::GetAtt": ["ObjectsBucket", "Arn"]}], service="s3"),
    ]


def _setting(path: str | None) -> list[dict[str, Any]]:
    """The bucket's settings are looked at and set; the template makes it."""
    return [] if path is None else [_allow("Bucket", BUCKET, [{"Fn::GetAtt": ["ObjectsBucket", "Arn"]}], service="s3")]


def _allow(name: str, actions: tuple[str, ...], resources: list[Any], *, service: str = "dynamodb") -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": [f"{service}:{action}" for action in sorted(actions)], "Resource": resources}


def _arn(resource: str) -> dict[str, Any]:
    return {"Fn::GetAtt": [resource, "Arn"]}


def _policies(who: str, description: str, statements: list[dict[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    """Return as many policies as it takes: IAM allows 6,144 characters in one."""
    documents: list[list[dict[str, Any]]] = [[]]
    size = 0
    for statement in statements:
        for part in _parts(statement, names):
            length = _length(part, names)
            if size and size + length > LONGEST:
                documents.append([])
                size = 0
            documents[-1].append(part)
            size += length
    return {f"{who}Policy{number or ''}": _policy(description, document) for number, document in enumerate(documents)}


def _parts(statement: dict[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a statement in parts that fit into a policy each."""
    resources: list[Any] = statement["Resource"]
    if len(resources) == 1 or _length(statement, names) <= LONGEST:
        yield statement
        return
    half = len(resources) // 2
    for number, some in enumerate((resources[:half], resources[half:])):
        yield from _parts({**statement, "Sid": f"{statement['Sid']}{number}", "Resource": some}, names)


def _length(statement: dict[str, Any], names: Mapping[str, str]) -> int:
    """Return a bound on the characters of a statement once the names in it are ARNs."""
    longest = max(map(len, names.values()), default=0)
    return len(json.dumps({**statement, "Resource": []})) + sum(ARN + longest + len(json.dumps(each)) for each in statement["Resource"])


def _policy(description: str, statements: list[dict[str, Any]]) -> dict[str, Any]:
    document = {"Version": "2012-10-17", "Statement": statements}
    return {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"Description": description, "PolicyDocument": document}}


def _role(service: str, policies: list[str]) -> dict[str, Any]:
    trust = {"Effect": "Allow", "Principal": {"Service": {"Ref": service}}, "Action": "sts:AssumeRole"}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "ManagedPolicyArns": [{"Ref": policy} for policy in policies],
        },
    }
