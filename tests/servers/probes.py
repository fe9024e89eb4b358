"""What a server that speaks DynamoDB or S3 does where the others do otherwise. Each probe answers yes or no; none raises."""

from __future__ import annotations

import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from tests.servers import Endpoint

KEYS = {"KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}], "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}]}
Probe = Callable[[Any, str], bool]


def client(service: str, at: Endpoint, *, secret: str | None = None) -> Any:
    # Limits are what is probed, so botocore must not know better than the server.
    config = Config(parameter_validation=False, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return Session().create_client(
        service,
        region_name=at.region,
        endpoint_url=at.url,
        aws_access_key_id=at.access_key,
        aws_secret_access_key=secret or at.secret_key,
        config=config,
    )


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ClientError, BotoCoreError):
        return True
    return False


def item(key: str, **more: Any) -> dict[str, Any]:
    return {"k": {"S": key}} | more


# --- DynamoDB -----------------------------------------------------------------------------------------------------------


def table(db: Any, **more: Any) -> str:
    name = f"probe-{secrets.token_hex(6)}"
    db.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **KEYS, **more)
    while db.describe_table(TableName=name)["Table"]["TableStatus"] != "ACTIVE":
        time.sleep(0.01)
    return name


def returns_the_item_that_failed_a_condition(db: Any, name: str) -> bool:
    db.put_item(TableName=name, Item=item("a", x={"N": "1"}))
    try:
        asked = {"ConditionExpression": "attribute_not_exists(k)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        db.put_item(TableName=name, Item=item("a"), **asked)
    except ClientError as error:
        return "Item" in error.response
    return False


def refuses_a_batch_of_26(db: Any, name: str) -> bool:
    puts = [{"PutRequest": {"Item": item(f"b{number}")}} for number in range(26)]
    return refused(lambda: db.batch_write_item(RequestItems={name: puts}))


def refuses_an_item_above_400_kb(db: Any, name: str) -> bool:
    return refused(lambda: db.put_item(TableName=name, Item=item("large", x={"S": "x" * 410_000})))


def refuses_an_empty_key(db: Any, name: str) -> bool:
    return refused(lambda: db.put_item(TableName=name, Item=item("")))


def refuses_reserved_words(db: Any, name: str) -> bool:
    at, values = {"TableName": name, "Key": item("a")}, {"ExpressionAttributeValues": {":x": {"S": "x"}}}
    return (
        refused(lambda: db.get_item(**at, ProjectionExpression="name"))
        and refused(lambda: db.update_item(**at, **values, UpdateExpression="SET status = :x"))
        and refused(lambda: db.scan(TableName=name, **values, FilterExpression="region = :x"))
    )


def has_transactions(db: Any, name: str) -> bool:
    return not refused(lambda: db.transact_write_items(TransactItems=[{"Put": {"TableName": name, "Item": item("t")}}]))


def applies_a_token_once(db: Any, name: str) -> bool:
    add = {"TableName": name, "Key": item("n"), "UpdateExpression": "ADD x :one", "ExpressionAttributeValues": {":one": {"N": "1"}}}
    try:
        for _ in range(2):
            db.transact_write_items(TransactItems=[{"Update": add}], ClientRequestToken="token")
    except ClientError:
        return False
    return bool(db.get_item(TableName=name, Key=item("n"))["Item"]["x"] == {"N": "1"})


def has_streams(db: Any, name: str) -> bool:
    try:
        made = table(db, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"})
        return bool(db.describe_table(TableName=made)["Table"].get("LatestStreamArn"))
    except ClientError:
        return False


def keeps_a_time_to_live(db: Any, name: str) -> bool:
    asked = {"Enabled": True, "AttributeName": "expires"}
    return not refused(lambda: db.update_time_to_live(TableName=name, TimeToLiveSpecification=asked))


def tells_of_point_in_time_recovery(db: Any, name: str) -> bool:
    return not refused(lambda: db.describe_continuous_backups(TableName=name))


def adds_an_index_on_demand(db: Any, name: str) -> bool:
    create = {"IndexName": "i", "KeySchema": [{"AttributeName": "x", "KeyType": "HASH"}], "Projection": {"ProjectionType": "ALL"}}
    attributes = [*KEYS["AttributeDefinitions"], {"AttributeName": "x", "AttributeType": "S"}]
    asked = {"AttributeDefinitions": attributes, "GlobalSecondaryIndexUpdates": [{"Create": create}]}
    return not refused(lambda: db.update_table(TableName=name, **asked))


def checks_dynamodb_signatures(db: Any, name: str) -> bool:
    at = Endpoint("probed", db.meta.endpoint_url)
    return refused(lambda: client("dynamodb", at, secret="another").get_item(TableName=name, Key=item("a")))


DYNAMODB: dict[str, Probe] = {
    probe.__name__.replace("_", " "): probe
    for probe in (
        returns_the_item_that_failed_a_condition,
        refuses_a_batch_of_26,
        refuses_an_item_above_400_kb,
        refuses_an_empty_key,
        refuses_reserved_words,
        has_transactions,
        applies_a_token_once,
        has_streams,
        keeps_a_time_to_live,
        tells_of_point_in_time_recovery,
        adds_an_index_on_demand,
        checks_dynamodb_signatures,
    )
}


# --- S3 -----------------------------------------------------------------------------------------------------------------


def bucket(s3: Any) -> str:
    name = f"probe-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
    return name


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def creates_once(s3: Any, name: str) -> bool:
    s3.put_object(Bucket=name, Key="once", Body=b"x", IfNoneMatch="*")
    return refused(lambda: s3.put_object(Bucket=name, Key="once", Body=b"y", IfNoneMatch="*"))


def ends_an_upload_in_parts_once(s3: Any, name: str) -> bool:
    s3.put_object(Bucket=name, Key="parts", Body=b"x")
    upload = s3.create_multipart_upload(Bucket=name, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=name, Key="parts", UploadId=upload, PartNumber=1, Body=b"y")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    asked = {"Bucket": name, "Key": "parts", "UploadId": upload, "MultipartUpload": parts}
    return refused(lambda: s3.complete_multipart_upload(**asked, IfNoneMatch="*"))


def checks_the_signature_of_an_address(s3: Any, name: str) -> bool:
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"}, ExpiresIn=60)
    return status(url) == 200 and status(url[:-1] + ("0" if url[-1] != "0" else "1")) == 403


def checks_the_signature_of_a_request(s3: Any, name: str) -> bool:
    at = Endpoint("probed", s3.meta.endpoint_url)
    return refused(lambda: client("s3", at, secret="another").list_objects_v2(Bucket=name))


def compares_the_bytes_with_their_checksum(s3: Any, name: str) -> bool:
    wrong = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="  # of no bytes at all
    return refused(lambda: s3.put_object(Bucket=name, Key="sum", Body=b"x", ChecksumSHA256=wrong))


def has_versions(s3: Any, name: str) -> bool:
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=name, Key="versions", Body=body)
    s3.delete_object(Bucket=name, Key="versions")
    told = s3.list_object_versions(Bucket=name, Prefix="versions")
    return (len(told.get("Versions", [])), len(told.get("DeleteMarkers", []))) == (2, 1)


def keeps_lifecycle_rules(s3: Any, name: str) -> bool:
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
    return not refused(lambda: s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [rule]}))


def encrypts_with_a_named_key(s3: Any, name: str) -> bool:
    asked = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/none"}
    return not refused(lambda: s3.put_object(Bucket=name, Key="kms", Body=b"x", **asked))


def misses_a_key_that_is_not_there(s3: Any, name: str) -> bool:
    """An object encrypted with a key nobody has must be refused."""
    return not encrypts_with_a_named_key(s3, name)


def closes_a_bucket_to_the_public_and_not_to_its_owner(s3: Any, name: str) -> bool:
    blocks = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=blocks)
    return not refused(lambda: s3.put_object(Bucket=name, Key="mine", Body=b"x"))


S3: dict[str, Probe] = {
    probe.__name__.replace("_", " "): probe
    for probe in (
        creates_once,
        ends_an_upload_in_parts_once,
        checks_the_signature_of_an_address,
        checks_the_signature_of_a_request,
        compares_the_bytes_with_their_checksum,
        has_versions,
        keeps_lifecycle_rules,
        misses_a_key_that_is_not_there,
        closes_a_bucket_to_the_public_and_not_to_its_owner,
    )
}
