"""One control plane for the session; each test has namespaces of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.control_plane import ControlPlane


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running
