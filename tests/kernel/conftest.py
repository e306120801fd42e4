"""Kernel tests fail, never skip, where BPF cannot run: a skipped kernel test proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.rig import Rig, attached


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One scratch node with the programs attached to its pods' root; each test takes pods of its own."""
    with attached() as rig:
        yield rig
