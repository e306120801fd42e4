"""Kernel tests fail, never skip, where BPF cannot run: a skipped kernel test proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.kernel.datapath import Datapath, detach
from agent.kernel.pins import Pins
from agent.kernel.probe import features
from lab.node import ScratchNode
from tests.kernel.rig import Rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One scratch node with the programs attached to its pods' root; each test takes pods of its own."""
    with ScratchNode() as node:
        datapath = Datapath(Pins(node.bpffs / "dagwall"), features())
        try:
            datapath.load()
            rig = Rig(node, datapath)
            datapath.attach([node.kubepods])
            yield rig
        finally:
            detach(node.bpffs / "dagwall")
            datapath.close()
