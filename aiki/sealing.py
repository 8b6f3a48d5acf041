"""Telling a secret to one process over a broker that others can read: sealed to a public key that the process has named.

X25519, HKDF-SHA256 and ChaCha20-Poly1305, with a key pair of the sender's for each message. It keeps the secret from whoever
only reads. It does not say who sealed it, nor whose the public key is.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aiki.errors import DecodeError

_PUBLIC_BYTES: Final = 32
_NONCE: Final = bytes(12)  # each message has a key of its own


class Opener:
    """A key pair. `public` is its public half as text."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = b64encode(_raw(self._private.public_key())).decode("ascii")

    def open(self, sealed: str) -> bytes:
        """What was sealed to `public`; raises `DecodeError`."""
        try:
            data = b64decode(sealed, validate=True)
            theirs = X25519PublicKey.from_public_bytes(data[:_PUBLIC_BYTES])
            key = _key(self._private.exchange(theirs), data[:_PUBLIC_BYTES])
            return ChaCha20Poly1305(key).decrypt(_NONCE, data[_PUBLIC_BYTES:], None)
        except (ValueError, InvalidTag) as error:
            raise DecodeError(f"a sealed secret that cannot be opened: {type(error).__name__}") from None


def seal(secret: bytes, public: str) -> str:
    """The secret for whoever has the private half of `public`; raises `DecodeError` if that is no key."""
    try:
        theirs = X25519PublicKey.from_public_bytes(b64decode(public, validate=True))
        mine = X25519PrivateKey.generate()
        own = _raw(mine.public_key())
        return b64encode(own + ChaCha20Poly1305(_key(mine.exchange(theirs), own)).encrypt(_NONCE, secret, None)).decode("ascii")
    except ValueError as error:
        raise DecodeError(f"not a public key: {type(error).__name__}") from None


def _raw(public: X25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _key(shared: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, b"aiki worker key").derive(shared)
