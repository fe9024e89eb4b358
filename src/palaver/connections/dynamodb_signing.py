"""AWS Signature Version 4 for DynamoDB: the head of a POST, signed.

A signing key lives for a day and most of a head for a second, so both are kept: what is left per request is two hashes and one HMAC.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256

from palaver.connections.aws_credentials import Credentials
from palaver.connections.dynamodb_endpoints import Endpoint

_TYPE = "application/x-amz-json-1.0"
_ALGORITHM = "AWS4-HMAC-SHA256"


class Signer:
    """Signs requests to one endpoint. `target` is the operation's prefix, such as DynamoDB_20120810."""

    def __init__(self, endpoint: Endpoint, region: str, target: str) -> None:
        self._host = endpoint.authority
        self._region = region
        self._target = target
        self._second = -1
        self._credentials: Credentials | None = None
        self._day = ""
        self._key = b""
        self._canonical = self._signed = self._to_sign = self._head = ""

    def head(self, operation: str, body: bytes, credentials: Credentials, second: int) -> bytes:
        """Return the request's head for a moment given as seconds since 1970; the body is sent right after it."""
        if second != self._second or credentials is not self._credentials:
            self._renew(credentials, second)
        canonical = f"{self._canonical}{self._target}.{operation}\n\n{self._signed}\n{sha256(body).hexdigest()}"
        to_sign = self._to_sign + sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        head = f"{self._head}{signature}\r\nx-amz-target: {self._target}.{operation}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode()

    def _renew(self, credentials: Credentials, second: int) -> None:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        day = date[:8]
        scope = f"{day}/{self._region}/dynamodb/aws4_request"
        if day != self._day or credentials is not self._credentials:
            self._key = signing_key(credentials.secret_key, day, self._region)
        token = credentials.session_token
        self._signed = "content-type;host;x-amz-date;" + ("x-amz-security-token;" if token else "") + "x-amz-target"
        headers = f"content-type:{_TYPE}\nhost:{self._host}\nx-amz-date:{date}\n" + (f"x-amz-security-token:{token}\n" if token else "")
        self._canonical = f"POST\n/\n\n{headers}x-amz-target:"
        self._to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n"
        self._head = (
            f"POST / HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: {_TYPE}\r\nx-amz-date: {date}\r\n"
            + (f"x-amz-security-token: {token}\r\n" if token else "")
            + f"authorization: {_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={self._signed}, Signature="
        )
        self._second, self._credentials, self._day = second, credentials, day


def signing_key(secret: str, day: str, region: str, service: str = "dynamodb") -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
