"""Whose processes and namespaces are looked into, and what of it that has gone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from agent.abi.structs import ENDPOINT, FLAG_HOST_NETWORK
from agent.app.connections import Connections
from agent.kernel.namespaces import Namespaces, own_inode
from agent.kernel.sock_diag import TcpSocket
from agent.model.verdict import EndpointState

NOBODY = 2**22 + 1  # above the kernel's greatest process id


def test_folders_that_have_gone_are_nobody_s(tmp_path: Path) -> None:
    connections = Connections({}, lambda _: [tmp_path / "gone", tmp_path], -1)
    assert connections._folder_ids(7) == {7, tmp_path.stat().st_ino}
    assert list(connections._processes(7)) == []


def test_processes_of_folders_below_are_found_too(tmp_path: Path) -> None:
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    (inner / "cgroup.procs").write_text("17\n18\n")
    (tmp_path / "cgroup.procs").write_text("16\n")
    assert list(Connections({}, lambda _: [tmp_path], -1)._processes(7)) == [16, 17, 18]


def test_a_namespace_is_kept_once_and_who_has_gone_has_none() -> None:
    with closing(Namespaces()) as namespaces:
        assert list(namespaces.look([NOBODY, os.getpid(), os.getppid(), os.getpid()])) == []
        assert [each.inode for each in namespaces.found] == [own_inode()]


def test_many_processes_are_looked_at_in_parts() -> None:
    with closing(Namespaces()) as namespaces:
        assert len(list(namespaces.look([NOBODY] * 1000))) == 3


@dataclass
class Shown:
    """A namespace with these connections, two in a part."""

    sockets: list[TcpSocket]
    ended: list[TcpSocket] = field(default_factory=list)

    def listening(self) -> Iterator[list[TcpSocket]]:
        return iter(())

    def connections(self, only: bytes = b"", storages: int = -1) -> Iterator[list[TcpSocket]]:
        for at in range(0, len(self.sockets), 2):
            yield self.sockets[at : at + 2]
            assert not only
            assert storages == -1
            assert not self.ended, "a listing skips sockets while others of it end"

    def end(self, sockets: Iterable[TcpSocket]) -> int:
        self.ended += sockets
        return len(self.ended)


def test_in_the_hosts_namespace_only_a_pods_own_sockets_are_ended(tmp_path: Path) -> None:
    """A process of a pod that has entered it makes none of the node's connections the pod's."""
    inner = tmp_path / "container"
    inner.mkdir()
    host = ENDPOINT.unpack(ENDPOINT.pack(state=EndpointState.QUARANTINED, flags=FLAG_HOST_NETWORK))
    connections = Connections({}, lambda _: [tmp_path], -1)
    own = [TcpSocket(2, 1, b"\1" * 48, folder) for folder in (7, tmp_path.stat().st_ino, inner.stat().st_ino)]
    others = [TcpSocket(2, 1, b"\1" * 48, folder) for folder in (1, 0)]
    for on_host, expected in ((True, own), (False, own + others)):
        shown = Shown(own + others)
        assert sum(connections._ending_denied(host, 7, shown, on_host=on_host)) == len(expected)
        assert shown.ended == expected
