"""Whose processes and namespaces are looked into, and what of it that has gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from immutables import Map

from agent.abi.structs import ENDPOINT, FLAG_HOST_NETWORK, OPENED_BY_US, PREFIX, PROMOTED, pack_folder
from agent.kernel.namespaces import Namespaces, own_inode
from agent.kernel.sock_diag import TcpSocket
from agent.model.changes import EVERYTHING
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.verdict import Direction, EndpointState
from agent.node.connections import Connections
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer
from tests.unit.dictmaps import DictMaps

NOBODY = 2**22 + 1  # above the kernel's greatest process id


def test_a_folder_that_has_gone_has_no_processes(tmp_path: Path) -> None:
    connections = Connections({}, lambda _: [tmp_path / "gone", tmp_path], ())
    assert connections._folder_ids(7) == {7, tmp_path.stat().st_ino}
    assert list(connections._processes(7)) == []


def test_processes_of_folders_below_are_found_too(tmp_path: Path) -> None:
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    (inner / "cgroup.procs").write_text("17\n18\n")
    (tmp_path / "cgroup.procs").write_text("16\n")
    assert list(Connections({}, lambda _: [tmp_path], ())._processes(7)) == [16, 17, 18]


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

    def connections(self, only: bytes = b"", storages: Sequence[int] = ()) -> Iterator[list[TcpSocket]]:
        for at in range(0, len(self.sockets), 2):
            yield self.sockets[at : at + 2]
            assert not only
            assert not storages
            assert not self.ended, "a listing skips sockets while others of it end"

    def end(self, sockets: Iterable[TcpSocket]) -> int:
        self.ended += sockets
        return len(self.ended)


def test_in_the_hosts_namespace_only_a_pods_own_sockets_are_ended(tmp_path: Path) -> None:
    """A process of a pod that has entered it makes none of the node's connections the pod's."""
    inner = tmp_path / "container"
    inner.mkdir()
    raw = ENDPOINT.pack(state=EndpointState.QUARANTINED, flags=FLAG_HOST_NETWORK)
    host, maps = ENDPOINT.unpack(raw), {"endpoints": {pack_folder(7): raw}, "flows": {}}
    connections = Connections(maps, lambda _: [tmp_path], ())  # type: ignore[arg-type]
    own = [TcpSocket(2, 1, b"\1" * 48, folder) for folder in (7, tmp_path.stat().st_ino, inner.stat().st_ino)]
    others = [TcpSocket(2, 1, b"\1" * 48, folder) for folder in (1, 0)]
    for on_host, expected in ((True, own), (False, own + others)):
        shown = Shown(own + others)
        assert sum(connections._ending_denied(host, 7, shown, on_host=on_host)) == len(expected)
        assert shown.ended == expected


HELD = ip_address("8.8.8.8")


def allowing(ref: PolicyRef, network: str) -> Policy:
    peer = CidrPeer(ip_network(network))
    return Policy(ref=ref, subject=Subject(), egress=(Rule("r", Direction.EGRESS, (peer,), (PortMatch(6, 443),)),))


def snapshot(**policies: str) -> Cluster:
    """A pod, and policies by name that allow a network."""
    claim = Claim(Identity("c", "etl", "sa", "d", "t", Kind.KUBERNETES_EXECUTOR), ())
    pod = Pod(uid=PodUid("a"), namespace="etl", name="a", claim=claim, addresses=(ip_address("10.0.0.1"),))
    refs = {name: PolicyRef("etl", "TaskNetworkPolicy", name) for name in policies}
    return Cluster(
        complete=True,
        pods=Map({pod.uid: pod}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({refs[name]: allowing(refs[name], network) for name, network in policies.items()}),
    )


@dataclass
class Window:
    """One map as a thread in user space reads it; `after` happens when it has read, before it knows the answer."""

    maps: DictMaps
    name: str
    after: Callable[[str], None]

    def get(self, key: bytes) -> bytes | None:
        entries = self.maps[self.name].entries
        found = _longest(entries, key) if self.name == "peers" else entries.get(key)
        self.after(self.name)
        return found


def _longest(entries: Mapping[bytes, bytes], key: bytes) -> bytes | None:
    def holds(prefix: bytes) -> bool:
        bits, shift = PREFIX.unpack(prefix)["length"], 128 - PREFIX.unpack(prefix)["length"]
        ours, theirs = (int.from_bytes(each[4:], "big") >> shift for each in (prefix, key))
        return bits == 0 or ours == theirs

    return max(((PREFIX.unpack(k)["length"], v) for k, v in entries.items() if holds(k)), default=(0, None))[1]


HELD_OPEN = TcpSocket(
    2, 1, b"\x9c\x40\x01\xbb" + bytes(16) + HELD.packed + bytes(12) + bytes(12), 0,
    (PROMOTED.pack(opened=OPENED_BY_US),),
)  # fmt: skip


@pytest.mark.parametrize("read", ["endpoints", "hosts", "peers", "rules"])
@pytest.mark.parametrize(("before", "after"), [({"p": "8.8.8.0/24", "q": "9.9.9.0/24"}, {"p": "8.8.8.0/24"}),
                                               ({"p": "8.8.8.0/24"}, {"p": "8.8.0.0/16"})])  # fmt: skip
def test_a_revision_between_two_lookups_ends_nothing_that_both_revisions_allow(
    read: str, before: dict[str, str], after: dict[str, str]
) -> None:
    """The thread stalls after one of its lookups, for as long as a whole revision takes."""
    maps = DictMaps()
    writer = Writer(maps, IdentityNumbers(), Intake(lambda *_: None))
    writer.start(snapshot(**before), [(PodUid("a"), 10)])
    left = [snapshot(**after)]

    def revise(name: str) -> None:
        if name == read and left:
            assert not writer.update(left.pop(), EVERYTHING).refused

    windows: Any = {name: Window(maps, name, revise) for name in maps}
    connections = Connections(windows, lambda _: [], (), writer.lock)
    assert connections.denied(10, [HELD_OPEN], frozenset()) == []
    assert not left, "the revision came while it read"


def test_what_the_revision_denies_is_ended_though_it_came_between_two_lookups() -> None:
    maps = DictMaps()
    writer = Writer(maps, IdentityNumbers(), Intake(lambda *_: None))
    writer.start(snapshot(p="8.8.8.0/24"), [(PodUid("a"), 10)])
    left = [snapshot(p="9.9.9.0/24")]

    def revise(name: str) -> None:
        if name == "hosts" and left:
            writer.update(left.pop(), EVERYTHING)

    windows: Any = {name: Window(maps, name, revise) for name in maps}
    assert Connections(windows, lambda _: [], (), writer.lock).denied(10, [HELD_OPEN], frozenset()) == [HELD_OPEN]
