"""A bucket made, set and checked: encrypted, closed to the public, with versions or without, and with the schema's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from palaver.bucket_rules import Rule, as_xml, rule_of
from palaver.connections.s3 import Answer, Bucket
from palaver.connections.s3_errors import Doing, refused, without_namespaces
from palaver.errors import ConfigError

_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_UNSET = {
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchLifecycleConfiguration",
}


Part = Literal["bucket", "public", "encryption", "rules", "versions"]
PARTS: Mapping[str, Part] = {"bucket": "bucket", "public": "public", "encryption": "encryption", "rules": "rules", "versions": "versions"}


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What a bucket is to be. Its encryption is that of the URL (`sse`, `kms_key`), or S3's own keys.

    Without versions a deleted object is gone. With them it stays for as long as the rules say, unless the URL says `versions=purge`.
    `versioned=None` leaves that as it is.
    """

    rules: Sequence[Rule] = ()
    versioned: bool | None = None
    closed_to_public: bool = True


class Finding(NamedTuple):
    """Something about a bucket that is not as it should be, and how to mend it."""

    name: Part
    message: str
    hint: str


async def provision_bucket(bucket: Bucket, settings: BucketSettings) -> bool:
    """Make the bucket unless it is there, then set everything; return whether it was made. Doing it again is harmless.

    Rules that others gave the bucket stay. Raises ConfigError where somebody else has a bucket of that name, Forbidden without
    the rights.
    """
    made = await _make(bucket)
    if settings.closed_to_public:
        await prepare(bucket, settings, "public")
    await prepare(bucket, settings, "encryption")
    if settings.versioned or (settings.versioned is False and await _versioning(bucket) == "Enabled"):
        await prepare(bucket, settings, "versions")
    if settings.rules:
        await prepare(bucket, settings, "rules")
    return made


async def prepare(bucket: Bucket, settings: BucketSettings, part: Part) -> None:
    """Make the bucket, or set one part of it."""
    match part:
        case "bucket":
            await _make(bucket)
        case "public":
            inner = "".join(f"<{name}>true</{name}>" for name in _BLOCKS)
            await _set(bucket, "publicAccessBlock", f"<PublicAccessBlockConfiguration {_SPACE}>{inner}</PublicAccessBlockConfiguration>")
        case "encryption":
            await _set(bucket, "encryption", _encryption(bucket))
        case "versions":
            status = "Enabled" if settings.versioned else "Suspended"
            await _set(bucket, "versioning", f"<VersioningConfiguration {_SPACE}><Status>{status}</Status></VersioningConfiguration>")
        case "rules":
            mine = {rule.id for rule in settings.rules}
            others = [told for told in await _rules(bucket) if told.findtext("ID") not in mine]
            await _set(bucket, "lifecycle", as_xml(settings.rules, others).decode())


def in_words(bucket: Bucket, settings: BucketSettings, part: Part) -> str:
    """Return what preparing a part does, for people."""
    match part:
        case "bucket":
            return ""
        case "public":
            return "is closed to the public"
        case "encryption":
            return f"encrypts with {bucket.place.sse or 'AES256'}"
        case "versions":
            return "keeps versions" if settings.versioned else "keeps no more versions"
        case "rules":
            uploads = next((rule.abandoned_uploads_days for rule in settings.rules if rule.abandoned_uploads_days), None)
            versions = next((rule.old_versions_days for rule in settings.rules if rule.old_versions_days), None)
            below = f" below {bucket.place.prefix}/" if bucket.place.prefix else ""
            return f"ends broken-off uploads after {uploads} days and versions of deleted objects after {versions}{below}"


async def check_bucket(bucket: Bucket, settings: BucketSettings) -> list[Finding]:
    """Return what is not as the settings say. Raises NotProvisioned without the bucket, Forbidden without the right to look."""
    _good(await bucket.ask("GET", {"list-type": "2", "max-keys": "1"}), "read")
    found: list[Finding] = []
    if settings.closed_to_public and await _is_open(bucket):
        found.append(Finding("public", "The bucket does not block public access.", "Set all four blocks of its public access settings."))
    if not await _encrypts(bucket):
        wanted = bucket.place.sse or "AES256"
        found.append(Finding("encryption", f"The bucket does not encrypt with {wanted} by default.", "Set its default encryption."))
    kept = [rule_of(told) for told in await _rules(bucket) if told.findtext("Status") == "Enabled"]
    missing = [rule.id for rule in settings.rules if rule not in kept]
    if missing:
        found.append(Finding("rules", f"The bucket lacks the rules {', '.join(missing)}.", "Run `palaver migrate apply`."))
    versioned = await _versioning(bucket) == "Enabled"
    if versioned and bucket.place.versions == "keep" and not any(rule.old_versions_days for rule in (*kept, *settings.rules)):
        hint = "Add ?versions=purge to the URL, or a rule that ends old versions."
        found.append(Finding("versions", "The bucket keeps versions of deleted objects for ever.", hint))
    if settings.versioned and not versioned:
        found.append(Finding("versions", "The bucket keeps no versions.", "Turn versioning on."))
    return found


async def _is_open(bucket: Bucket) -> bool:
    told = await _configuration(bucket, "publicAccessBlock")
    return told is None or any(told.findtext(name) != "true" for name in _BLOCKS)


async def _encrypts(bucket: Bucket) -> bool:
    """Say whether objects are encrypted by default: as the URL says, or in any way where it says none."""
    told = await _configuration(bucket, "encryption")
    at = bucket.place
    default = None if told is None else told.find(".//ApplyServerSideEncryptionByDefault")
    if default is None:
        return False
    return at.sse is None or (default.findtext("SSEAlgorithm"), default.findtext("KMSMasterKeyID")) == (at.sse, at.kms_key)


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
    keys = "<BucketKeyEnabled>true</BucketKeyEnabled>" if at.bucket_keys else ""
    rule = f"<Rule><ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault>{keys}</Rule>"
    return f"<ServerSideEncryptionConfiguration {_SPACE}>{rule}</ServerSideEncryptionConfiguration>"


async def _set(bucket: Bucket, what: str, body: str) -> None:
    _good(await bucket.ask("PUT", {what: ""}, body=body.encode(), doing="write"), "write")


async def _configuration(bucket: Bucket, what: str) -> ElementTree.Element | None:
    answer = await bucket.ask("GET", {what: ""})
    if answer.code in _UNSET:
        return None
    return without_namespaces(_good(answer, "read").body)


async def _rules(bucket: Bucket) -> list[ElementTree.Element]:
    told = await _configuration(bucket, "lifecycle")
    return [] if told is None else list(told.iter("Rule"))


async def _versioning(bucket: Bucket) -> str:
    told = await _configuration(bucket, "versioning")
    return "" if told is None else told.findtext("Status") or ""


def _good(answer: Answer, doing: Doing) -> Answer:
    if answer.status >= 300:
        raise refused(answer.status, answer.code, doing)
    return answer
