"""The chain: each line holds the SHA-256 of the one before, and some are signed (Ed25519), with all that they follow.

A line is one JSON object: its keys sorted, no blanks, ASCII. `seq` counts from 1, `prev` is the hash of the line
before as it is in the file, without its end. `sig` is over the line as it is without `sig`. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import DagwallError

Record = Mapping[str, Any]
NOTHING = "0" * 64
"""`prev` of the first line of all."""
MAX_LINE_BYTES = 256 * 1024


def canonical(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(line: bytes) -> str:
    """Of a line without its end."""
    return hashlib.sha256(line).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The last line: its number and its hash."""

    seq: int = 0
    hash: str = NOTHING


@dataclass(frozen=True, slots=True)
class Signer:
    key: Ed25519PrivateKey

    @property
    def key_id(self) -> str:
        return key_id(self.key.public_key())

    def sign(self, record: Record) -> dict[str, Any]:
        named = {**record, "key": self.key_id}
        return {**named, "sig": base64.b64encode(self.key.sign(canonical(named))).decode("ascii")}

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def is_signed_by(key: Ed25519PublicKey, record: Record) -> bool:
    try:
        signature = base64.b64decode(str(record["sig"]), validate=True)
        key.verify(signature, canonical({name: value for name, value in record.items() if name != "sig"}))
    except (InvalidSignature, ValueError):
        return False
    return True


def link(head: Head, record: Record, signer: Signer | None = None) -> tuple[Head, bytes]:
    """The next line, with its end, and the head after it."""
    linked: Record = {**record, "seq": head.seq + 1, "prev": head.hash}
    line = canonical(signer.sign(linked) if signer else linked)
    return Head(head.seq + 1, digest(line)), line + b"\n"


def private_key(pem: bytes, name: str) -> Ed25519PrivateKey:
    """Raises DagwallError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise DagwallError(f"{name}: no private key in PEM without a password: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise DagwallError(f"{name}: must be an Ed25519 key (openssl genpkey -algorithm ed25519)")
    return key


def public_key(pem: bytes, name: str) -> Ed25519PublicKey:
    """From a public key, or from a private one. Raises DagwallError."""
    if b"PRIVATE KEY" in pem:
        return private_key(pem, name).public_key()
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as exc:
        raise DagwallError(f"{name}: no public key in PEM: {exc}") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise DagwallError(f"{name}: must be an Ed25519 key")
    return key
