"""Sealed values: AES-256-GCM under a key that is named beside each value, bound to the one place it was sealed for.

A sealed value is `01`, the id of its key (8 bytes), a random nonce (12), the ciphertext, and the tag (16). Where it lies (the
table, the key with the tenant, the column) is authenticated with it and not stored: a value that is moved does not open.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from palaver.errors import ConfigError, Unsealable
from palaver.ops import Table, position
from palaver.stored_json import loads, packed
from palaver.system import plain_key
from palaver.values import KeyPart, Value

VERSION = b"\x01"
ID, NONCE, TAG = 8, 12, 16
HEAD = len(VERSION) + ID + NONCE
OVERHEAD = HEAD + TAG
KEY_BYTES = 32
MASK = "**********"
VARIABLE = "PALAVER_SEAL_KEYS"


class Sealed:
    """A secret that was not opened: what a reader gets that has no business with it, and what a patch leaves as it was."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)


class SealKey:
    """One key: its id, which may be seen by anybody, and what is derived from it. Never shown."""

    __slots__ = ("_cipher", "_tokens", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise _unreadable()
        self.id = _derived(secret, b"id")[:ID]
        self._tokens = _derived(secret, b"tokens")
        self._cipher = _cipher(_derived(secret, b"values"))

    @classmethod
    def parse(cls, text: str) -> SealKey:
        """Return the key a text of `new_key` stands for. Raises ConfigError for any other text, without showing it."""
        try:
            secret = urlsafe_b64decode(text.strip().encode("ascii") + b"=" * (-len(text.strip()) % 4))
        except (NotBase64, ValueError):
            raise _unreadable() from None
        return cls(secret)

    def __repr__(self) -> str:
        return f"SealKey({self.id.hex()})"

    def seal(self, data: bytes, nonce: bytes, place: bytes) -> bytes:
        sealed: bytes = self._cipher.encrypt(nonce, data, place)
        return VERSION + self.id + nonce + sealed

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Return what was sealed. Raises cryptography's InvalidTag."""
        data: bytes = self._cipher.decrypt(sealed[HEAD - NONCE : HEAD], sealed[HEAD:], place)
        return data

    def fingerprint(self, text: bytes) -> str:
        return hmac.digest(self._tokens, text, "sha256").hex()


class Sealer:
    """The keys of a store. The first seals, every one opens, so that keys can be rotated."""

    def __init__(self, keys: Sequence[SealKey], random: Callable[[int], bytes] = os.urandom) -> None:
        if not keys:
            raise ConfigError("There is no key to seal with.", hint=f"Set {VARIABLE}; `palaver keys new` makes a key.")
        self._first = keys[0]
        self._keys: Mapping[bytes, SealKey] = {key.id: key for key in reversed(keys)}
        self._random = random
        #: Whether the database is known to remember the key that seals; until then each write is looked at.
        self.remembered = False

    @property
    def first(self) -> str:
        """The id of the key that seals."""
        return self._first.id.hex()

    @property
    def ids(self) -> list[str]:
        """The ids of all keys, the one that seals first."""
        return [self.first, *sorted(key.hex() for key in self._keys if key != self._first.id)]

    def seal(self, value: Value, place: bytes) -> bytes:
        """Return a stored value sealed for one place; twice the same value gives two texts that have nothing in common."""
        return self._first.seal(packed(value), self._random(NONCE), place)

    def open(self, sealed: Any, place: bytes, what: str) -> Any:
        """Return the stored value. Raises Unsealable: a key that is not here, another place, changed bytes, or never sealed."""
        return loads(self._opened(sealed, place, what).decode())

    def resealed(self, sealed: Any, place: bytes, what: str, to: bytes | None = None) -> bytes:
        """Return the same value under the first key, for the same place or for another."""
        return self._first.seal(self._opened(sealed, place, what), self._random(NONCE), to or place)

    def _opened(self, sealed: Any, place: bytes, what: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        name = key_id(sealed)
        if name is None:
            raise Unsealable(f"{what} is not stored sealed.", hint="Somebody wrote it around Palaver; set it anew.")
        key = self._keys.get(bytes.fromhex(name))
        if key is None:
            raise Unsealable(f"{what} was sealed with key {name}, which is not here.", hint=f"Add that key to {VARIABLE}.")
        try:
            return key.open(sealed, place)
        except InvalidTag:
            raise Unsealable(
                f"{what} was changed since it was sealed, or was sealed for another record.", hint="Restore the record, or set it anew."
            ) from None

    def fingerprint(self, text: bytes, key: str | None = None) -> tuple[str, str]:
        """Return a hash that nobody without the key can try values against, and the id of its key (default: the first).

        Raises Unsealable where that key is not here any more.
        """
        if key is None:
            return self._first.fingerprint(text), self.first
        found = self._keys.get(bytes.fromhex(key))
        if found is None:
            raise Unsealable("The first request with this token was made under a key that is not here.", hint=f"Add it to {VARIABLE}.")
        return found.fingerprint(text), key


def new_key() -> str:
    """Return a new key as the text it is configured with."""
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip("=")


def sealer_of(keys: Sequence[str]) -> Sealer:
    """Return the sealer of some keys, given as texts. Raises ConfigError for a text that is no key."""
    return Sealer([SealKey.parse(key) for key in keys])


def key_id(sealed: Any) -> str | None:
    """Return the id of the key a value was sealed with; None where it is no sealed value."""
    if type(sealed) is not bytes or len(sealed) < OVERHEAD or not sealed.startswith(VERSION):
        return None
    return sealed[len(VERSION) : len(VERSION) + ID].hex()


def place_of(table: Table, record: Mapping[str, Any], column: str) -> bytes:
    """Return the place a record's value is sealed for."""
    return place(table.name, position(table, None, record), column)


def place(table: str, key: Sequence[KeyPart], column: str) -> bytes:
    return orjson.dumps([table, plain_key(key), column])


def _derived(secret: bytes, use: bytes) -> bytes:
    """Return a key for one use, so that no two uses share one."""
    return hmac.digest(secret, b"palaver seal 1 " + use, "sha256")


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise ConfigError("Secret fields need the package cryptography.", hint='Install it: pip install "palaver[seal]".') from None
    return AESGCM(key)


def _unreadable() -> ConfigError:
    return ConfigError("A key to seal with is not one of ours.", hint="`palaver keys new` makes one.")
