"""Where DynamoDB and its streams answer: a region's public names, or an address given by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from palaver.errors import ConfigError

_REGION = re.compile(r"[a-z]{2,5}(-[a-z]+)+-\d{1,2}")
_LABEL = re.compile(r"[A-Za-z0-9-]{1,63}")
# Partitions with a domain of their own, by how their regions begin.
_SUFFIXES = (
    ("cn-", "amazonaws.com.cn"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """Return what the Host header says; a scheme's own port is left out, as every signer does."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def endpoints(region: str, endpoint: str | None, environ: Mapping[str, str]) -> tuple[Endpoint, Endpoint]:
    """Return where DynamoDB and DynamoDB Streams answer.

    An endpoint given by hand serves both; then those of the environment (AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL_DYNAMODB_STREAMS,
    AWS_ENDPOINT_URL); then the region's. Only an endpoint given by hand may be plain http. Raises ConfigError.
    """
    if endpoint is not None:
        found = _parsed(endpoint)
        _check(_LABEL, region)
        return found, found
    return _configured(region, "dynamodb", environ), _configured(region, "streams.dynamodb", environ)


def _configured(region: str, service: str, environ: Mapping[str, str]) -> Endpoint:
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        variable = "AWS_ENDPOINT_URL_DYNAMODB" + ("_STREAMS" if service.startswith("streams") else "")
        url = environ.get(variable) or environ.get("AWS_ENDPOINT_URL")
        if url:
            _check(_LABEL, region)
            return _parsed(url)
    _check(_REGION, region)
    return Endpoint(f"{service}.{region}.{domain(region)}", 443, True)


def _check(pattern: re.Pattern[str], region: str) -> None:
    if not pattern.fullmatch(region):
        raise ConfigError(
            f"{region!r} is not an AWS region.", hint="Regions look like eu-west-1; other names need an endpoint= of their own."
        )


def _parsed(url: str) -> Endpoint:
    # The URL is not repeated in the message: people put passwords into URLs.
    wrong = ConfigError("The DynamoDB endpoint is not an address.", hint="It looks like http://127.0.0.1:8000: scheme, host and port only.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise wrong
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise wrong
    tls = parts.scheme == "https"
    return Endpoint(parts.hostname, port or (443 if tls else 80), tls)


def domain(region: str) -> str:
    """Return the domain of the partition a region lies in."""
    return next((known for start, known in _SUFFIXES if region.startswith(start)), "amazonaws.com")
