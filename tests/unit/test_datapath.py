"""The datapath's own handling of trouble, before any program is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.kernel.datapath import Datapath
from agent.kernel.pins import Pins
from agent.kernel.probe import Features

FEATURES = Features(
    set_retval=True,
    sockops=True,
    lsm_cgroup=True,
    skb_netns=True,
    sock_error=True,
    netns_owner=True,
    write_seq=True,
    shared_frags=True,
)


def test_a_file_system_that_refuses_is_the_kernel_s_error(tmp_path: Path) -> None:
    """Whoever guards against KernelError keeps the agent, and with it the links, alive."""
    (tmp_path / "file").touch()
    datapath = Datapath(Pins(tmp_path / "file"), FEATURES)
    with pytest.raises(KernelError, match="Not a directory"):
        datapath.attach([tmp_path])
    assert not datapath.pins_are_there()


def test_a_root_that_went_is_no_error(tmp_path: Path) -> None:
    datapath = Datapath(Pins(tmp_path / "pins"), FEATURES)
    datapath.attach([tmp_path / "gone"])
    assert datapath.attached() == []
