"""Certificate, key and the CA of clients, from files that somebody renews: read again when they have changed."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from agent.errors import DagwallError
from agent.log import event


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. Who connects must have a certificate of the client CA."""

    certificate: Path
    key: Path
    client_ca: Path


class Certificates:
    """`credentials` raises DagwallError where the files do not do; a renewal that does not keeps what was there."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._read_of: tuple[tuple[int, int, int], ...] = ()
        self._failing = ""

    def credentials(self) -> grpc.ServerCredentials:
        try:
            first = self._configuration()
        except (OSError, ValueError) as exc:
            raise DagwallError(f"serve hubble with TLS: {exc}") from exc
        renewed = cast(Callable[[], grpc.ServerCertificateConfiguration], self._renewed)  # the stubs know no None
        return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=True)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked at each connection; None: nothing is new."""
        try:
            if self._stamps() == self._read_of:
                return None
            found = self._configuration()
        except (OSError, ValueError) as exc:
            if str(exc) != self._failing:
                self._failing = str(exc)
                event("hubble.tls_failed", level=logging.ERROR, why=str(exc), still="the certificate of before")
            return None
        self._failing = ""
        event("hubble.tls_renewed", certificate=str(self._files.certificate))
        return found

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        """Raises OSError and ValueError."""
        files, stamps = self._files, self._stamps()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(files.certificate, files.key)
        except ssl.SSLError as exc:
            raise ValueError(f"{files.certificate} and {files.key}: no certificate with its key: {exc}") from exc
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as exc:
            raise ValueError(f"{files.client_ca}: no certificate of a CA: {exc}") from exc
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        found = grpc.ssl_server_certificate_configuration([pair], files.client_ca.read_bytes())
        if self._stamps() != stamps:
            raise ValueError(f"{files.certificate}: changed while it was read")
        self._read_of = stamps
        return found

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        found = (os.stat(path) for path in (self._files.certificate, self._files.key, self._files.client_ca))
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)
