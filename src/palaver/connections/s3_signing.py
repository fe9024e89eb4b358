"""AWS Signature Version 4 for S3: a request's headers, or an address that holds its own signature."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import quote

from palaver.connections.aws_credentials import Credentials
from palaver.connections.dynamodb_signing import signing_key

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"


def signed_headers(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    credentials: Credentials,
    region: str,
    second: int,
) -> dict[str, str]:
    """Return the headers to send, those given among them. `headers` has the host; `path` is encoded."""
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
    digest = sha256(body).hexdigest()
    all_headers = {name.lower(): value for name, value in headers.items()}
    all_headers |= {"x-amz-date": date, "x-amz-content-sha256": digest}
    if credentials.session_token:
        all_headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(all_headers))
    signature, scope = _signature(method, path, encoded(query), all_headers, digest, date, credentials, region)
    all_headers["authorization"] = f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return all_headers


def presigned_query(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    credentials: Credentials,
    region: str,
    second: int,
    expires_s: int,
) -> str:
    """Return the query of an address that works for so many seconds. Whoever uses it sends the given headers, the host among them."""
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
    all_headers = {name.lower(): value for name, value in headers.items()}
    told = dict(query) | {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{_scope(date, region)}",
        "X-Amz-Date": date,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": ";".join(sorted(all_headers)),
    }
    if credentials.session_token:
        told["X-Amz-Security-Token"] = credentials.session_token
    signature, _ = _signature(method, path, encoded(told), all_headers, _UNSIGNED, date, credentials, region)
    return f"{encoded(told)}&X-Amz-Signature={signature}"


def encoded(query: Mapping[str, str]) -> str:
    """Return a query as it is signed and sent."""
    return "&".join(sorted(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items()))


def _scope(date: str, region: str) -> str:
    return f"{date[:8]}/{region}/s3/aws4_request"


def _signature(
    method: str, path: str, query: str, headers: Mapping[str, str], digest: str, date: str, credentials: Credentials, region: str
) -> tuple[str, str]:
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{';'.join(sorted(headers))}\n{digest}"
    scope = _scope(date, region)
    to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = signing_key(credentials.secret_key, date[:8], region, "s3")
    return hmac.digest(key, to_sign.encode(), "sha256").hex(), scope
