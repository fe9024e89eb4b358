"""What a bucket ends by itself, derived from a schema: a value that a provisioner applies and an emitter writes down.

Palaver ends its objects itself: an object goes with its record, or `keep` after it was written. A bucket cannot, because it knows an
object's age and not whether a record that was extended still refers to it. So no rule here expires a current object. What is left
to the bucket is what Palaver cannot see: uploads that broke off, versions of what was deleted, and the marks these leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any
from xml.etree.ElementTree import Element, tostring
from xml.sax.saxutils import escape

from palaver.blobpath import ARCHIVE
from palaver.codec import EntityCodec
from palaver.errors import ConfigError
from palaver.markers import Blob
from palaver.schema import Schema

ABANDONED_DAYS = 7
LONGEST_DAYS = 30
"""How long a version of a deleted object may stay at most: an erasure must have ended within a month."""

READABLE = ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR")
"""Storage classes from which an object is read at once; from the others a read fails until somebody restores it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule for the objects below a prefix; days count from an upload's start, a version's end or an object's last put."""

    id: str
    prefix: str
    abandoned_uploads_days: int | None = None
    old_versions_days: int | None = None
    drops_markers: bool = False
    moves: tuple[int, str] | None = None


def bucket_rules(schema: Schema, *, prefix: str = "", archive_class: str | None = None, archive_days: int = 30) -> tuple[Rule, ...]:
    """Return the rules of the bucket, or of the part of it below a prefix, that holds a schema's objects.

    Versions of deleted objects stay for the shortest time any object is kept, and for 30 days at most. With `archive_class` what was
    archived moves to that class. Raises ConfigError for a class that cannot be read at once, since everything archived is still read.
    """
    if archive_class is not None and archive_class not in READABLE:
        raise ConfigError(
            "Objects of this storage class cannot be read without restoring them first.", hint=f"Take one of {', '.join(READABLE)}."
        )
    below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    # Several stacks may share a bucket, each below its prefix; the rules of one bucket need names of their own.
    named = f"-{below[:-1]}" if below else ""
    rules = [
        Rule(f"palaver-abandoned-uploads{named}", below, abandoned_uploads_days=ABANDONED_DAYS),
        Rule(f"palaver-deleted-objects{named}", below, old_versions_days=shortest_days(schema), drops_markers=True),
    ]
    if archive_class is not None:
        rules.append(Rule(f"palaver-archive{named}", f"{below}{ARCHIVE}/", moves=(archive_days, archive_class)))
    return tuple(rules)


def shortest_days(schema: Schema) -> int:
    """Return the shortest time any object of a schema is kept, in whole days from 1 to 30."""
    lives = [LONGEST_DAYS * 86_400.0]
    for declared in schema.entities.values():
        rule = EntityCodec(declared, schema.retention).rule
        after = rule.after if rule is not None else None
        for spec in declared.blobs:
            marker: Any = spec.marker(Blob)
            known = [length for length in (marker.keep if rule is not None else None, after) if isinstance(length, timedelta)]
            if known:
                lives.append(max(known).total_seconds())
    return max(1, ceil(min(lives) / 86_400))


def as_cloudformation(rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the `LifecycleConfiguration` of an `AWS::S3::Bucket`."""
    return {"Rules": [_cloudformation(rule) for rule in rules]}


def _cloudformation(rule: Rule) -> dict[str, Any]:
    told: dict[str, Any] = {"Id": rule.id, "Status": "Enabled", "Prefix": rule.prefix}
    if rule.abandoned_uploads_days is not None:
        told["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": rule.abandoned_uploads_days}
    if rule.old_versions_days is not None:
        told["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule.old_versions_days}
    if rule.drops_markers:
        told["ExpiredObjectDeleteMarker"] = True
    if rule.moves is not None:
        told["Transitions"] = [{"TransitionInDays": rule.moves[0], "StorageClass": rule.moves[1]}]
    return told


def as_xml(rules: Sequence[Rule], others: Sequence[Element] = ()) -> bytes:
    """Return the body of a PutBucketLifecycleConfiguration request; `others` are rules that somebody else made, as they were read."""
    inner = "".join(tostring(rule, encoding="unicode") for rule in others) + "".join(f"<Rule>{_xml(rule)}</Rule>" for rule in rules)
    return f'<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</LifecycleConfiguration>'.encode()


def _xml(rule: Rule) -> str:
    told = f"<ID>{escape(rule.id)}</ID><Filter><Prefix>{escape(rule.prefix)}</Prefix></Filter><Status>Enabled</Status>"
    if rule.moves is not None:
        told += f"<Transition><Days>{rule.moves[0]}</Days><StorageClass>{rule.moves[1]}</StorageClass></Transition>"
    if rule.drops_markers:
        told += "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
    if rule.old_versions_days is not None:
        told += f"<NoncurrentVersionExpiration><NoncurrentDays>{rule.old_versions_days}</NoncurrentDays></NoncurrentVersionExpiration>"
    if rule.abandoned_uploads_days is not None:
        days = rule.abandoned_uploads_days
        told += f"<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
    return told


def rule_of(told: Element) -> Rule:
    """Return a rule as a bucket tells it, without namespaces; what Palaver never asks for is left out."""
    filtered = told.findtext("Filter/Prefix") or told.findtext("Filter/And/Prefix") or told.findtext("Prefix") or ""
    moved = told.find("Transition")
    return Rule(
        told.findtext("ID") or "",
        filtered,
        abandoned_uploads_days=_days(told, "AbortIncompleteMultipartUpload/DaysAfterInitiation"),
        old_versions_days=_days(told, "NoncurrentVersionExpiration/NoncurrentDays"),
        drops_markers=told.findtext("Expiration/ExpiredObjectDeleteMarker") == "true",
        moves=None if moved is None else (_days(moved, "Days") or 0, moved.findtext("StorageClass") or ""),
    )


def _days(told: Element, path: str) -> int | None:
    text = told.findtext(path)
    return int(text) if text else None
