"""Alarms of a DynamoDB stack: throttled tables and indexes, errors of the service, and a worker that falls behind the streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palaver.records.dynamo_keys import Layout

OPERATIONS = ("GetItem", "PutItem", "Query", "TransactWriteItems", "UpdateItem")
THROTTLED = 10
"""Throttled requests in five minutes that deserve a look: retries hide fewer."""
BEHIND_MS = 60_000


def alarms(tables: Mapping[str, Layout], own: str) -> dict[str, Any]:
    """Return the alarms by their names in the template; `tables` are the layouts by theirs."""
    made: dict[str, Any] = {}
    for resource, layout in tables.items():
        what = layout.table.name
        made[f"{resource}ReadsThrottled"] = _throttled(f"Reads of {what} are throttled.", "ReadThrottleEvents", resource)
        made[f"{resource}WritesThrottled"] = _throttled(f"Writes to {what} are throttled.", "WriteThrottleEvents", resource)
        made[f"{resource}SystemErrors"] = _errors(f"DynamoDB fails on {what}.", resource)
        for index in layout.ways:
            # An index that cannot follow throttles the writes of its table.
            name = f"{resource}{''.join(char for char in index if char.isalnum())}WritesThrottled"
            made[name] = _throttled(f"Index {index} of {what} cannot follow.", "WriteThrottleEvents", resource, index)
    made[f"{own}WritesThrottled"] = _throttled("The log of changes is throttled.", "WriteThrottleEvents", own)
    made["WorkerBehind"] = _behind()
    return made


def _throttled(description: str, metric: str, table: str, index: str | None = None) -> dict[str, Any]:
    dimensions = [{"Name": "TableName", "Value": {"Ref": table}}]
    if index is not None:
        dimensions.append({"Name": "GlobalSecondaryIndexName", "Value": index})
    return _alarm(
        description,
        {"Namespace": "AWS/DynamoDB", "MetricName": metric, "Dimensions": dimensions, "Statistic": "Sum", "Period": 300},
        THROTTLED,
    )


def _errors(description: str, table: str) -> dict[str, Any]:
    """Return the alarm on the sum over operations, which is how the service counts its errors."""
    metrics: list[dict[str, Any]] = [{"Id": "total", "Expression": "SUM(METRICS())", "ReturnData": True}]
    for operation in OPERATIONS:
        dimensions = [{"Name": "TableName", "Value": {"Ref": table}}, {"Name": "Operation", "Value": operation}]
        metric = {"Namespace": "AWS/DynamoDB", "MetricName": "SystemErrors", "Dimensions": dimensions}
        metrics.append({"Id": operation.lower(), "MetricStat": {"Metric": metric, "Stat": "Sum", "Period": 300}, "ReturnData": False})
    return _alarm(description, {"Metrics": metrics}, 1)


def _behind() -> dict[str, Any]:
    dimensions = [{"Name": "FunctionName", "Value": {"Ref": "WorkerFunction"}}]
    metric = {"Namespace": "AWS/Lambda", "MetricName": "IteratorAge", "Dimensions": dimensions, "Statistic": "Maximum", "Period": 300}
    return {**_alarm("The worker is more than a minute behind the streams.", metric, BEHIND_MS), "Condition": "HasWorkerFunction"}


def _alarm(description: str, metric: dict[str, Any], threshold: int) -> dict[str, Any]:
    actions = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
    properties = {
        "AlarmDescription": description,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "EvaluationPeriods": 1,
        "Threshold": threshold,
        "TreatMissingData": "notBreaching",
        "AlarmActions": actions,
    }
    return {"Type": "AWS::CloudWatch::Alarm", "Properties": {**properties, **metric}}
