"""The open TCP connections of pods, as sock_diag(7) shows them in the pods' namespaces, and who opened them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.abi.structs import ENDPOINT, FLAG_HOST_NETWORK, FLOW_KEY, pack_folder, unpack_address
from agent.kernel import sock_diag
from agent.kernel.maps import KernelMap
from agent.kernel.sock_diag import TcpSocket
from agent.model.verdict import Direction, EndpointState, Verdict
from agent.sync.verdicts import tcp_verdict

_TCP = 6
_MOST_FOLDERS = 4096
"""Folders below a pod's that are looked into; the kernel judges what is in the others all the same."""

FoldersOf = Callable[[int], Iterable[Path]]
"""Cgroup folders in which processes of an endpoint may be, the nearest to a cgroup id first."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Reads maps and namespaces only; any thread."""

    maps: Mapping[str, KernelMap]
    folders_of: FoldersOf

    def end_denied(self, cgroup_id: int) -> int:
        """End what the rules of this endpoint deny by now, however long it was silent (P10); how many.

        Raises OSError where the kernel has no SOCK_DESTROY, or a namespace cannot be entered.
        """
        raw = self.maps["endpoints"].get(pack_folder(cgroup_id))
        endpoint = ENDPOINT.unpack(raw) if raw else None
        if endpoint is None or endpoint["state"] not in (EndpointState.MANAGED, EndpointState.QUARANTINED):
            return 0
        with self._namespace(cgroup_id) as there:
            if not there:
                return 0
            listed = self._own(cgroup_id, sock_diag.connections(), on_host=_on_host(endpoint))
            ports = frozenset(each.local_port for each in listed if each.listens)
            found = (each for each in listed if not each.listens)
            return sock_diag.destroy_all([e for e in found if self._is_denied(endpoint, cgroup_id, e, ports)])

    def end(self, cgroup_id: int, cookie: int) -> bool:
        """End one connection of an endpoint; False where it is over. Raises OSError, as above."""
        with self._namespace(cgroup_id) as there:
            return there and sock_diag.destroy(cookie)

    def still_open(self, keys: Iterable[bytes]) -> set[bytes]:
        """Of these keys of `flows`, all of TCP: those that an open connection belongs to. In doubt it does."""
        by_cgroup: dict[int, list[bytes]] = {}
        for key in keys:
            by_cgroup.setdefault(FLOW_KEY.unpack(key)["cgroup_id"], []).append(key)
        return {key for cgroup_id, some in by_cgroup.items() for key in self._still_open(cgroup_id, some)}

    def _still_open(self, cgroup_id: int, keys: list[bytes]) -> Iterator[bytes]:
        try:
            with self._namespace(cgroup_id) as there:
                listed = sock_diag.connections() if there else []
        except OSError:
            yield from keys
            return
        sockets = [each for each in listed if not each.listens]
        services = {
            Direction.EGRESS: {each.remote for each in sockets},
            Direction.INGRESS: {(each.remote[0], each.local_port) for each in sockets},
        }
        for key in keys:
            flow = FLOW_KEY.unpack(key)
            if (flow["peer"], flow["service_port"]) in services[Direction(flow["direction"])]:
                yield key

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
        return tcp_verdict(self.maps, endpoint, direction, peer, service) is Verdict.DENY

    def _opened(self, cgroup_id: int, connection: TcpSocket, listening: frozenset[int]) -> Direction:
        """Who opened it: as `flows` has it; where that has neither or both, as the pod listens on the port or not."""
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

    def _own(self, cgroup_id: int, found: list[TcpSocket], *, on_host: bool) -> list[TcpSocket]:
        """A pod's namespace is its own; in the host's only sockets that its folders made are."""
        if not on_host:
            return found
        own = {cgroup_id}
        for folder in self._folders(cgroup_id):
            with suppress(OSError):  # it has gone
                own.add(folder.stat().st_ino)
        return [each for each in found if each.cgroup_id in own or each.listens]

    @contextmanager
    def _namespace(self, cgroup_id: int) -> Iterator[bool]:
        """The calling thread is in the pod's network namespace; False where it has no process any more."""
        with ExitStack() as stack:
            yield any(self._enters(stack, pid) for pid in self._processes(cgroup_id))

    @staticmethod
    def _enters(stack: ExitStack, pid: int) -> bool:
        try:
            stack.enter_context(sock_diag.network_of(pid))
        except FileNotFoundError:
            return False  # the process has gone; another one may share its namespace
        return True

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


def _on_host(endpoint: Mapping[str, Any]) -> bool:
    return bool(endpoint["flags"] & FLAG_HOST_NETWORK)


def _flow_key(cgroup_id: int, peer: bytes, port: int, direction: Direction) -> bytes:
    return FLOW_KEY.pack(cgroup_id=cgroup_id, peer=peer, service_port=port, protocol=_TCP, direction=int(direction))
