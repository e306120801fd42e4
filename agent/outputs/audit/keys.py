"""The keys of the audit log, in files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import DagwallError
from agent.log import event
from agent.outputs.audit.chain import Signer, key_id, private_key, public_key


def signer(path: Path | None, own: Path) -> Signer:
    """The key in `path`, else this node's own, which is made at the first start. Raises DagwallError."""
    try:
        if path is None and not own.exists():
            _make(own)
        found = Signer(private_key((path or own).read_bytes(), str(path or own)))
    except OSError as exc:
        raise DagwallError(f"--audit-key: {path or own}: {exc.strerror or exc}") from exc
    event("audit.key", key=found.key_id, public=found.public_pem().decode("ascii"))
    return found


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, *plain)
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
    os.replace(fresh, path)


def public_keys(paths: Iterable[Path]) -> dict[str, Ed25519PublicKey]:
    """By id. Raises DagwallError."""
    found: dict[str, Ed25519PublicKey] = {}
    for path in paths:
        try:
            key = public_key(path.read_bytes(), str(path))
        except OSError as exc:
            raise DagwallError(f"--public-key: {path}: {exc.strerror or exc}") from exc
        found[key_id(key)] = key
    return found
