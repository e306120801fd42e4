"""The open TCP connections of pods, as sock_diag(7) shows them in the pods' namespaces, and who opened them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from agent.abi.structs import (
    ENDPOINT,
    FLAG_HOST_NETWORK,
    FLOW,
    FLOW_KEY,
    GREETING,
    OPENED_BY_PEER,
    OPENED_BY_US,
    PROMOTED,
    REQUEST,
    pack_folder,
    unpack_address,
)
from agent.kernel.namespaces import Namespaces, own_inode
from agent.kernel.sock_diag import TcpSocket
from agent.kernel.sock_filter import Ends, Network, any_of, none_to
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction, EndpointState, Verdict
from agent.node.kernel import Maps
from agent.sync.carried import Greeting
from agent.sync.seqlock import SeqLock
from agent.sync.verdicts import tcp_verdict

_PART = 256
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_MARKS = {OPENED_BY_US: Direction.EGRESS, OPENED_BY_PEER: Direction.INGRESS}
_MOST_FOLDERS = 4096
"""Folders below a pod's that are looked into; the kernel judges what is in the others all the same."""

FoldersOf = Callable[[int], Iterable[Path]]
"""Cgroup folders in which processes of an endpoint may be, the nearest to a cgroup id first."""


class Listed(Protocol):
    """TCP sockets of one network namespace."""

    def listening(self) -> Iterator[list[TcpSocket]]: ...
    def connections(self, only: bytes = b"", storages: Sequence[int] = ()) -> Iterator[list[TcpSocket]]: ...
    def end(self, sockets: Iterable[TcpSocket]) -> int: ...


@dataclass(frozen=True, slots=True)
class Connections:
    """Reads maps and namespaces only; any thread. `storages`: descriptors of the maps with the marks of sockets,
    with what their connections began with, and with their requests."""

    maps: Maps
    folders_of: FoldersOf
    storages: tuple[int, ...]
    lock: SeqLock = field(default_factory=SeqLock)

    def ending_denied(self, cgroup_id: int) -> Iterator[int]:
        """End what the rules of this endpoint deny by now, however long it was silent (P10).

        A piece of work at a time; yields how many each has ended. Raises OSError where the kernel has no
        SOCK_DESTROY, or a namespace cannot be entered.
        """
        endpoint = self._endpoint(cgroup_id)
        if endpoint is None:
            return
        with closing(Namespaces()) as namespaces:
            for _ in namespaces.look(self._processes(cgroup_id)):
                yield 0
            for namespace in namespaces.found:
                with closing(namespace.sockets()) as sockets:
                    on_host = _on_host(endpoint) or namespace.inode == own_inode()
                    yield from self._ending_denied(endpoint, cgroup_id, sockets, on_host=on_host)

    def ending(self, cgroup_id: int, stalled: Mapping[int, Ends]) -> Iterator[int]:
        """End these connections of an endpoint, by their cookies. Raises OSError, as above."""
        left = dict(stalled)
        with closing(Namespaces()) as namespaces:
            for _ in namespaces.look(self._processes(cgroup_id)):
                yield 0
            for namespace in namespaces.found:
                with closing(namespace.sockets()) as sockets:
                    for part in sockets.connections(any_of(left.values())):
                        yield sockets.end([each for each in part if left.pop(each.cookie, None)])
                if not left:
                    return
                yield 0

    def still_open(self, keys: Iterable[bytes]) -> set[bytes]:
        """Of these keys of `flows`, all of TCP: those that an open connection belongs to. In doubt it does."""
        by_cgroup: dict[int, list[bytes]] = {}
        for key in keys:
            by_cgroup.setdefault(FLOW_KEY.unpack(key)["cgroup_id"], []).append(key)
        return {key for cgroup_id, some in by_cgroup.items() for key in self._still_open(cgroup_id, some)}

    def _still_open(self, cgroup_id: int, keys: list[bytes]) -> Iterator[bytes]:
        try:
            sockets = self._open(cgroup_id)
        except OSError:
            yield from keys
            return
        services = {
            Direction.EGRESS: {each.remote for each in sockets},
            Direction.INGRESS: {(each.remote[0], each.local_port) for each in sockets},
        }
        for key in keys:
            flow = FLOW_KEY.unpack(key)
            if (flow["peer"], flow["service_port"]) in services[Direction(flow["direction"])]:
                yield key

    def _endpoint(self, cgroup_id: int) -> Mapping[str, Any] | None:
        """As the kernel has it now; None where nothing of it is judged."""
        raw = self.maps["endpoints"].get(pack_folder(cgroup_id))
        endpoint = ENDPOINT.unpack(raw) if raw else None
        judged = (EndpointState.MANAGED, EndpointState.QUARANTINED)
        return endpoint if endpoint is not None and endpoint["state"] in judged else None

    def denied(self, cgroup_id: int, connections: Iterable[TcpSocket], listening: frozenset[int]) -> list[TcpSocket]:
        """Those that the maps deny, each as they were at one moment: what is written meanwhile is read again."""
        found: list[TcpSocket] = []
        number, endpoint = -1, None
        for each in connections:
            while True:
                if (now := self.lock.begin()) != number:
                    number, endpoint = now, self._endpoint(cgroup_id)
                is_denied = endpoint is not None and self._is_denied(endpoint, cgroup_id, each, listening)
                if self.lock.unchanged(number):
                    break
            if is_denied:
                found.append(each)
        return found

    def _is_denied(
        self, endpoint: Mapping[str, Any], cgroup_id: int, connection: TcpSocket, listening: frozenset[int]
    ) -> bool:
        peer, port = connection.remote
        if not _on_host(endpoint) and (
            unpack_address(peer).is_loopback or peer in (endpoint["own"][:16], endpoint["own"][16:])
        ):
            return False  # it stays in the pod (P7)
        if endpoint["state"] == EndpointState.QUARANTINED:
            return True
        direction = self._opened(cgroup_id, connection, listening)
        service = port if direction is Direction.EGRESS else connection.local_port
        greeting = Greeting(
            connection.stored(GREETING.size), connection.stored(REQUEST.size), has_sent=connection.has_sent
        )
        return tcp_verdict(self.maps, endpoint, direction, peer, service, greeting) is Verdict.DENY

    def _opened(self, cgroup_id: int, connection: TcpSocket, listening: frozenset[int]) -> Direction:
        """Who opened it: what the handshake or the socket says. A socket older than dagwall says nothing: then as
        `flows` has it; where that has neither or both, as the pod listens on the port or not.
        """
        if connection.asks or connection.is_asked:
            return Direction.EGRESS if connection.asks else Direction.INGRESS
        if (marks := connection.stored(PROMOTED.size)) is not None:
            mark = _MARKS.get(PROMOTED.unpack(marks)["opened"])
            if mark is not None:
                return mark
        peer, port = connection.remote
        folder = connection.cgroup_id or cgroup_id
        known = [
            direction
            for direction, service in ((Direction.EGRESS, port), (Direction.INGRESS, connection.local_port))
            if self.maps["flows"].get(_flow_key(folder, peer, service, direction)) is not None
        ]
        if len(known) == 1:
            return known[0]
        return Direction.INGRESS if connection.local_port in listening else Direction.EGRESS

    def _ending_denied(
        self, endpoint: Mapping[str, Any], cgroup_id: int, sockets: Listed, *, on_host: bool
    ) -> Iterator[int]:
        own, slot = (self._folder_ids(cgroup_id) if on_host else frozenset()), int(endpoint["slot"])
        ports: set[int] = set()
        for part in sockets.listening():
            ports.update(each.local_port for each in part)
            yield 0
        yield 0
        listen = frozenset(ports)
        denied: list[TcpSocket] = []  # ended last: a listing may skip sockets while others of it go
        only = b"" if _on_host(endpoint) else none_to(_in_the_pod(endpoint))
        for part in sockets.connections(only, self.storages):
            found = [each for each in part if not on_host or each.cgroup_id in own or self._slot(each) == slot]
            denied += self.denied(cgroup_id, found, listen)
            yield 0
        for at in range(0, len(denied), _PART):
            yield sockets.end(denied[at : at + _PART])

    def _slot(self, connection: TcpSocket) -> int | None:
        """Of the endpoint that a connection belongs to, as its flow knows it; None: it has none.

        For one whose maker's folder has gone: the id of that folder is on no way to the pod any more.
        """
        peer, port = connection.remote
        for direction, service in ((Direction.EGRESS, port), (Direction.INGRESS, connection.local_port)):
            raw = self.maps["flows"].get(_flow_key(connection.cgroup_id, peer, service, direction))
            if raw is not None:
                return int(FLOW.unpack(raw)["slot"])
        return None

    def _open(self, cgroup_id: int) -> list[TcpSocket]:
        """All connections in all namespaces of an endpoint."""
        with closing(Namespaces()) as namespaces:
            for _ in namespaces.look(self._processes(cgroup_id)):
                pass
            found: list[TcpSocket] = []
            for namespace in namespaces.found:
                only = b"" if namespace.inode == own_inode() else none_to(_LOOPBACK)
                with closing(namespace.sockets()) as sockets:
                    found += chain.from_iterable(sockets.connections(only))
            return found

    def _folder_ids(self, cgroup_id: int) -> frozenset[int]:
        """Cgroup ids of an endpoint's folders: in the host's namespace its own sockets are those that they made."""
        own = {cgroup_id}
        for folder in self._folders(cgroup_id):
            with suppress(OSError):  # it has gone
                own.add(folder.stat().st_ino)
        return frozenset(own)

    def _processes(self, cgroup_id: int) -> Iterator[int]:
        """Of an endpoint, the nearest to a folder first; those in folders below containers' too."""
        for folder in self._folders(cgroup_id):
            try:
                yield from (int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split())
            except OSError:
                continue  # the folder has gone, or is a threaded one

    def _folders(self, cgroup_id: int) -> Iterator[Path]:
        left = _MOST_FOLDERS
        for top in self.folders_of(cgroup_id):
            for path, below, _ in os.walk(top):
                yield Path(path)
                left -= 1
                if left <= 0:
                    below.clear()


def _in_the_pod(endpoint: Mapping[str, Any]) -> list[Network]:
    """Where a connection stays in the pod (P7): a pod may hold very many such, and none of them is judged."""
    own = [unpack_address(endpoint["own"][at : at + 16]) for at in (0, 16)]
    return [*_LOOPBACK, *(ip_network(address) for address in own if not address.is_unspecified)]


def _on_host(endpoint: Mapping[str, Any]) -> bool:
    return bool(endpoint["flags"] & FLAG_HOST_NETWORK)


def _flow_key(cgroup_id: int, peer: bytes, port: int, direction: Direction) -> bytes:
    return FLOW_KEY.pack(
        cgroup_id=cgroup_id, peer=peer, service_port=port, protocol=IpProtocol.TCP, direction=int(direction)
    )
