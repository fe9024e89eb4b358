"""A bucket as a URL names it: `s3://bucket/prefix?region=…&endpoint=…&sse=…&kms_key=…&storage_class=…`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from palaver.connections.dynamodb_endpoints import domain
from palaver.errors import ConfigError, did_you_mean

OPTIONS = ("region", "endpoint", "sse", "kms_key", "storage_class", "versions", "timeout")
ENCRYPTIONS = {"s3": "AES256", "kms": "aws:kms", "kms-dsse": "aws:kms:dsse"}
CLASSES = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "EXPRESS_ONEZONE", "REDUCED_REDUNDANCY")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_.=/-]*")
_REGION = re.compile(r"[a-z0-9-]{1,63}")
_KEY = re.compile(r"[A-Za-z0-9:/_-]{1,2048}")


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, the part of it that is ours, and how objects are stored there. Holds no secret.

    `origin` is where requests go, the bucket's name included where it is part of the host; `path` is what stands before a key.
    """

    bucket: str
    prefix: str
    region: str
    origin: str
    virtual_host: bool
    sse: str | None = None
    kms_key: str | None = None
    storage_class: str | None = None
    versions: Literal["keep", "purge"] = "keep"
    timeout_s: float = 30.0

    @property
    def path(self) -> str:
        return "/" if self.virtual_host else f"/{self.bucket}/"

    @property
    def bucket_keys(self) -> bool:
        """Whether one data key serves many objects, so that KMS is not asked, and paid, for each. Two layers take none."""
        return self.sse == "aws:kms"

    def key_path(self, path: str) -> str:
        """Return the path of a request for an object, encoded as S3 signs it."""
        return self.path + quote(f"{self.prefix}/{path}" if self.prefix else path, safe="/-_.~")


def place(url: str, environ: Mapping[str, str]) -> Place:
    """Read a URL. What it leaves open comes from AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL.

    Raises ConfigError, with the nearest known name for an unknown option. Credentials have no place in a URL.
    """
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
    if "@" in bucket:
        raise ConfigError("A bucket's URL holds no credentials.", hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role.")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ConfigError("This is not the name of a bucket.", hint="Write s3://bucket/prefix; names have 3 to 63 of a-z, 0-9, - and dot.")
    if not _PREFIX.fullmatch(prefix) or "//" in prefix or any(part in (".", "..") for part in prefix.split("/")):
        raise ConfigError("This is not a prefix for objects.", hint="Use letters, digits, -, _, =, dot and single slashes.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"A bucket has no option {name}.", hint=did_you_mean(name, OPTIONS))
    region = options.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region or not _REGION.fullmatch(region):
        raise ConfigError("The bucket's region is not named.", hint="Add ?region=eu-central-1, or set AWS_REGION.")
    origin, virtual = _origin(bucket, region, options.get("endpoint"), environ)
    sse, kms_key = _encryption(options)
    return Place(
        bucket,
        prefix,
        region,
        origin,
        virtual,
        sse,
        kms_key,
        _one_of(options, "storage_class", CLASSES),
        "purge" if _one_of(options, "versions", ("keep", "purge")) == "purge" else "keep",
        _timeout(options.get("timeout", "30")),
    )


def _origin(bucket: str, region: str, endpoint: str | None, environ: Mapping[str, str]) -> tuple[str, bool]:
    given = endpoint
    if not given and environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        given = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if not given:
        host = f"s3.{region}.{domain(region)}"
        # A certificate for *.s3… does not hold for a name with dots in it.
        return (f"https://{host}", False) if "." in bucket else (f"https://{bucket}.{host}", True)
    wrong = ConfigError("The S3 endpoint is not an address.", hint="It looks like https://127.0.0.1:9000: scheme, host and port only.")
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise wrong
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != own else ""), False


def _encryption(options: Mapping[str, str]) -> tuple[str | None, str | None]:
    sse, key = _one_of(options, "sse", tuple(ENCRYPTIONS)), options.get("kms_key")
    if key is not None and not _KEY.fullmatch(key):
        raise ConfigError("The option kms_key is the id, the alias or the ARN of a key.")
    if key is not None and sse not in ("kms", "kms-dsse"):
        raise ConfigError("A KMS key is used with sse=kms or sse=kms-dsse alone.", hint="Add sse=kms.")
    return (ENCRYPTIONS[sse] if sse else None), key


def _one_of(options: Mapping[str, str], name: str, known: tuple[str, ...]) -> str | None:
    value = options.get(name)
    if value is not None and value not in known:
        raise ConfigError(f"The option {name} is one of {', '.join(known)}.", hint=did_you_mean(value, known))
    return value


def _timeout(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3_600:
        raise ConfigError("The option timeout is a number of seconds, above 0 and up to 3,600.", hint="Write timeout=30.")
    return seconds
