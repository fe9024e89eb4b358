"""A bucket made, set and checked: encrypted, closed to the public, with versions or without, and with the schema's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from palaver.blobs.s3 import without_namespaces
from palaver.bucket_rules import Rule, as_xml
from palaver.connections.s3 import Answer, Bucket
from palaver.connections.s3_errors import Doing, refused
from palaver.errors import ConfigError

_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_UNSET = {
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchLifecycleConfiguration",
}


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What a bucket is to be. Its encryption is that of the URL (`sse`, `kms_key`), or S3's own keys.

    Without versions a deleted object is gone. With them it stays for as long as the rules say, unless the URL says `versions=purge`.
    """

    rules: Sequence[Rule] = ()
    versioned: bool = False
    closed_to_public: bool = True


class Finding(NamedTuple):
    """Something about a bucket that is not as it should be, and how to mend it."""

    name: str
    message: str
    hint: str


async def provision_bucket(bucket: Bucket, settings: BucketSettings) -> bool:
    """Make the bucket unless it is there, then set everything; return whether it was made. Doing it again is harmless.

    Raises ConfigError where somebody else has a bucket of that name, Forbidden without the rights.
    """
    made = await _make(bucket)
    if settings.closed_to_public:
        inner = "".join(f"<{name}>true</{name}>" for name in _BLOCKS)
        await _set(bucket, "publicAccessBlock", f"<PublicAccessBlockConfiguration {_SPACE}>{inner}</PublicAccessBlockConfiguration>")
    await _set(bucket, "encryption", _encryption(bucket))
    if settings.versioned or not made:
        status = "Enabled" if settings.versioned else "Suspended"
        if settings.versioned or await _versioning(bucket) == "Enabled":
            await _set(bucket, "versioning", f"<VersioningConfiguration {_SPACE}><Status>{status}</Status></VersioningConfiguration>")
    if settings.rules:
        await _set(bucket, "lifecycle", as_xml(settings.rules).decode())
    return made


async def check_bucket(bucket: Bucket, settings: BucketSettings) -> list[Finding]:
    """Return what is not as the settings say. Raises NotProvisioned without the bucket, Forbidden without the right to look."""
    _good(await bucket.ask("GET", {"list-type": "2", "max-keys": "1"}), "read")
    found: list[Finding] = []
    if settings.closed_to_public:
        told = await _configuration(bucket, "publicAccessBlock")
        if told is None or any(told.findtext(name) != "true" for name in _BLOCKS):
            found.append(
                Finding("public", "The bucket does not block public access.", "Set all four blocks of its public access settings.")
            )
    told = await _configuration(bucket, "encryption")
    wanted = bucket.place.sse or "AES256"
    algorithms = [] if told is None else [element.text for element in told.iter("SSEAlgorithm")]
    if algorithms != [wanted]:
        found.append(Finding("encryption", f"The bucket does not encrypt with {wanted} by default.", "Set its default encryption."))
    kept = await _rules(bucket)
    missing = [rule.id for rule in settings.rules if rule.id not in kept]
    if missing:
        found.append(Finding("rules", f"The bucket lacks the rules {', '.join(missing)}.", "Apply the schema's rules."))
    versioned = await _versioning(bucket) == "Enabled"
    if versioned and bucket.place.versions == "keep" and not any(rule.old_versions_days for rule in settings.rules):
        hint = "Add ?versions=purge to the URL, or a rule that ends old versions."
        found.append(Finding("versions", "The bucket keeps versions of deleted objects for ever.", hint))
    if settings.versioned and not versioned:
        found.append(Finding("versions", "The bucket keeps no versions.", "Turn versioning on."))
    return found


async def _make(bucket: Bucket) -> bool:
    region = bucket.place.region
    inner = f"<LocationConstraint>{region}</LocationConstraint>"
    body = "" if region == "us-east-1" else f"<CreateBucketConfiguration {_SPACE}>{inner}</CreateBucketConfiguration>"
    there = await bucket.ask("HEAD", {})
    if there.status == 200:
        return False
    answer = await bucket.ask("PUT", {}, body=body.encode(), doing="write")
    if body and answer.code == "InvalidLocationConstraint":
        # Servers of one's own know no regions; S3 would refuse this second request as well.
        answer = await bucket.ask("PUT", {}, doing="write")
    if answer.code == "BucketAlreadyOwnedByYou":
        return False
    if answer.code == "BucketAlreadyExists":
        raise ConfigError("Somebody else has a bucket of this name.", hint="Names are shared by all accounts: choose another.")
    _good(answer, "write")
    return True


def _encryption(bucket: Bucket) -> str:
    at = bucket.place
    key = f"<KMSMasterKeyID>{escape(at.kms_key)}</KMSMasterKeyID>" if at.kms_key else ""
    default = f"<SSEAlgorithm>{at.sse or 'AES256'}</SSEAlgorithm>{key}"
    # One data key serves many objects, so that KMS is not asked, and paid, for each.
    keys = "<BucketKeyEnabled>true</BucketKeyEnabled>" if at.sse == "aws:kms" else ""
    rule = f"<Rule><ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault>{keys}</Rule>"
    return f"<ServerSideEncryptionConfiguration {_SPACE}>{rule}</ServerSideEncryptionConfiguration>"


async def _set(bucket: Bucket, what: str, body: str) -> None:
    _good(await bucket.ask("PUT", {what: ""}, body=body.encode(), doing="write"), "write")


async def _configuration(bucket: Bucket, what: str) -> ElementTree.Element | None:
    answer = await bucket.ask("GET", {what: ""})
    if answer.code in _UNSET:
        return None
    return without_namespaces(_good(answer, "read").body)


async def _rules(bucket: Bucket) -> set[str]:
    told = await _configuration(bucket, "lifecycle")
    rules = [] if told is None else list(told.iter("Rule"))
    return {rule.findtext("ID") or "" for rule in rules if rule.findtext("Status") == "Enabled"}


async def _versioning(bucket: Bucket) -> str:
    told = await _configuration(bucket, "versioning")
    return "" if told is None else told.findtext("Status") or ""


def _good(answer: Answer, doing: Doing) -> Answer:
    if answer.status >= 300:
        raise refused(answer.status, answer.code, doing)
    return answer
