"""What a bucket is told to end by itself, from a declaration."""

from __future__ import annotations

from typing import Annotated
from xml.etree import ElementTree

import pytest
from pydantic import JsonValue

from palaver import Blob, Entity, Expires, Expiry, InstantMs, Key, Schema, days
from palaver.bucket_rules import LONGEST_DAYS, as_cloudformation, as_xml, bucket_rules, rule_of, shortest_days
from palaver.errors import ConfigError


class Kept(Entity, table="kept"):
    id: str
    body: Annotated[JsonValue, Blob("kept/{id}")] = None
    key = Key("id")


class Brief(Entity, table="brief"):
    id: str
    sent: InstantMs
    expires: Annotated[Expiry | None, Expires(after=days(2), of="sent")] = None
    body: Annotated[JsonValue, Blob("brief/{id}")] = None
    key = Key("id")


class Lasting(Entity, table="lasting"):
    id: str
    sent: InstantMs
    expires: Annotated[Expiry | None, Expires(after=days(2), of="sent")] = None
    body: Annotated[JsonValue, Blob("lasting/{id}", keep=days(9))] = None
    key = Key("id")


class Plain(Entity, table="plain"):
    id: str
    sent: InstantMs
    expires: Annotated[Expiry | None, Expires(after=days(1), of="sent")] = None
    key = Key("id")


@pytest.mark.parametrize(
    ("entities", "expected"), [([Kept], LONGEST_DAYS), ([Kept, Lasting], 9), ([Lasting, Brief], 2), ([Plain], LONGEST_DAYS)]
)
def test_versions_of_deleted_objects_stay_no_longer_than_the_shortest_lived_object(entities: list[type[Entity]], expected: int) -> None:
    assert expected == shortest_days(Schema("s", entities))


def test_no_rule_expires_an_object_that_a_record_may_still_name() -> None:
    rules = as_cloudformation(bucket_rules(Schema("s", [Brief, Lasting]), archive_class="GLACIER_IR"))["Rules"]
    assert rules
    for rule in rules:
        assert not {"ExpirationInDays", "ExpirationDate", "Expiration"} & set(rule)


def test_uploads_that_broke_off_and_what_deleting_leaves_are_ended() -> None:
    assert as_cloudformation(bucket_rules(Schema("s", [Brief]), prefix="/bot/")) == {
        "Rules": [
            {
                "Id": "palaver-abandoned-uploads-bot",
                "Status": "Enabled",
                "Prefix": "bot/",
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            },
            {
                "Id": "palaver-deleted-objects-bot",
                "Status": "Enabled",
                "Prefix": "bot/",
                "NoncurrentVersionExpiration": {"NoncurrentDays": 2},
                "ExpiredObjectDeleteMarker": True,
            },
        ]
    }


def test_only_the_archive_moves_and_only_to_where_it_can_be_read_at_once() -> None:
    moved = bucket_rules(Schema("s", [Kept]), prefix="bot", archive_class="GLACIER_IR", archive_days=90)[-1]
    assert ("bot/archive/", (90, "GLACIER_IR")) == (moved.prefix, moved.moves)
    with pytest.raises(ConfigError):
        bucket_rules(Schema("s", [Kept]), archive_class="DEEP_ARCHIVE")


def test_the_request_s_body_is_well_formed_and_says_the_same() -> None:
    told = ElementTree.fromstring(as_xml(bucket_rules(Schema("s", [Kept]), prefix="a&b<c", archive_class="STANDARD_IA")))
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    assert ["a&b<c/", "a&b<c/", "a&b<c/archive/"] == [element.text for element in told.iter(f"{space}Prefix")]
    assert ["7", "30", "30"] == [
        element.text for name in ("DaysAfterInitiation", "NoncurrentDays", "Days") for element in told.iter(f"{space}{name}")
    ]


def test_a_rule_is_read_as_it_was_told() -> None:
    rules = bucket_rules(Schema("s", [Brief]), prefix="bot", archive_class="GLACIER_IR")
    told = ElementTree.fromstring(as_xml(rules).replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b""))
    assert list(rules) == [rule_of(rule) for rule in told.iter("Rule")]


def test_stacks_that_share_a_bucket_have_rules_of_their_own() -> None:
    ids = [rule.id for prefix in ("", "live", "live/a") for rule in bucket_rules(Schema("s", [Kept]), prefix=prefix)]
    assert 6 == len(set(ids))
