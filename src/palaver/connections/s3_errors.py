"""Every way S3 and what speaks like it can fail, as an error of the tree. No text of the service is repeated: it names objects."""

from __future__ import annotations

import re
from typing import Literal
from xml.etree import ElementTree

from palaver.errors import (
    ConfigError,
    Forbidden,
    ItemTooLarge,
    NotFound,
    NotProvisioned,
    OutcomeUnknown,
    PalaverError,
    StorageFull,
    Throttled,
    Unauthenticated,
    Unavailable,
)

Doing = Literal["read", "write"]

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_DELETED = re.compile(r'DeleteFailed \{.*?code: "([A-Za-z0-9.]{1,80})"', re.DOTALL)
_SAFE = re.compile(r"[A-Za-z0-9.]{1,80}")

EXPIRED = frozenset(("ExpiredToken", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"))
"""What is said of credentials that others may have replaced: they ended, or the key was taken back."""
_UNKNOWN_CALLER = EXPIRED | {"SignatureDoesNotMatch", "InvalidClientTokenId", "NotSignedUp"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect"}
_BUSY = {
    "SlowDown",
    "ServiceUnavailable",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "OperationAborted",
}
# It did not arrive as it was sent, so nothing was done.
_DAMAGED = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
_NO_KEY = {"KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.InvalidKeyUsageException"}


def refused(status: int, code: str, doing: Doing) -> PalaverError:
    """Return the error for an answer that is one; `code` is the one in its body, or empty."""
    code = code if _SAFE.fullmatch(code) else ""
    told = {"reason": code or str(status)}
    if code == "NoSuchBucket":
        return NotProvisioned("The bucket does not exist.", hint="Make it, or correct its name in the URL.", **told)
    if code in _NO_KEY:
        return NotProvisioned("The KMS key cannot be used.", hint="Enable it, or name another with kms_key=.", **told)
    if code in _UNKNOWN_CALLER or status == 401:
        return Unauthenticated(
            f"S3 did not take the credentials ({told['reason']}).", hint="Look at the access key, profile or role.", **told
        )
    if code == "RequestTimeTooSkewed":
        return Unauthenticated("This machine's clock is too far from that of S3.", hint="Set the clock.", **told)
    if code in _DAMAGED:
        return Unavailable("The request did not arrive whole at the object storage.", hint="Repeat it; nothing was done.", **told)
    if code == "NoSuchUpload":
        return Unavailable("The storage gave an upload up before it was whole.", hint="Store the object again.", **told)
    if code in _ELSEWHERE or status in (301, 307):
        return ConfigError("The bucket lies in another region.", hint="Correct region= in the URL.", **told)
    if code == "InvalidObjectState":
        return Unavailable("The object lies in an archive class.", hint="Restore it in S3, then read it again.", **told)
    return _by_status(status, code, doing, told)


def _by_status(status: int, code: str, doing: Doing, told: dict[str, str]) -> PalaverError:
    if status == 403:
        return Forbidden(
            f"The credentials may not {doing} objects in this bucket.", hint="Grant the right in IAM or the bucket's policy.", **told
        )
    if status == 404:
        return NotFound("There is no such blob.")
    if code in _BUSY or status in (429, 503):
        return Throttled("S3 asks for fewer requests.", **told)
    if code in _FULL or status == 507:
        return StorageFull("The object storage has no space left.", **told)
    if code == "EntityTooLarge" or status == 413:
        return ItemTooLarge("The object storage takes no object this large.", **told)
    if status >= 500 and status != 501:
        return lost(doing, told["reason"], sent=True)
    return ConfigError(
        f"The object storage refused the request ({told['reason']}).",
        hint="Look at the options in the URL and at what the server supports.",
        **told,
    )


def lost(doing: Doing, reason: str, *, sent: bool) -> PalaverError:
    """Return the error for a request without an answer. Storing and deleting may be repeated: doing either twice is doing it once."""
    if doing == "write" and sent:
        return OutcomeUnknown(
            "Nobody can say whether the object was written or deleted.", hint="Repeat it; that is harmless.", reason=reason
        )
    return Unavailable(f"The object storage could not be reached: {reason}.", reason=reason)


def from_obstore(error: Exception, doing: Doing) -> PalaverError:
    """Return the error for one of obstore, whose text holds the answer."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        return refused(int(status[1]), code[1] if code else "", doing)
    if "redirect without LOCATION" in text:
        return refused(301, "PermanentRedirect", doing)
    if isinstance(error, FileNotFoundError):
        return NotFound("There is no such blob.")
    if deleted := _DELETED.search(text):
        # One object of a batch: the answer as a whole was 200.
        return refused({"AccessDenied": 403, "InternalError": 500}.get(deleted[1], 400), deleted[1], doing)
    if code:
        return refused(400, code[1], doing)
    name = type(error).__name__
    for kind in ("Connect", "Timeout", "Decode", "Interrupted", "Request"):
        if f"kind: {kind}," in text:
            return lost(doing, kind.lower(), sent=kind != "Connect")
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return Unauthenticated("S3 did not take the credentials.", reason=name)
    return lost(doing, name, sent=True)


def without_namespaces(body: bytes) -> ElementTree.Element:
    """Return an answer's XML with bare names. Raises Unavailable for what is none."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise lost("read", "garbled", sent=True) from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
