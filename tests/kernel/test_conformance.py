"""The public NetworkPolicy cases by real packets: every TCP and UDP probe of every step, from pod to pod.

One agent's writer takes in all states one after the other, as a cluster that changes; flows stay in the kernel, so
that verdicts of the state before would show. SCTP probes are the compiler's (tests/unit/test_conformance): not every
kernel has SCTP sockets.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytest

from agent.kernel.datapath import Datapath, detach
from agent.kernel.pins import Pins
from agent.kernel.probe import features
from agent.model.changes import EVERYTHING
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount
from tests.conformance import CASES, snapshot, uid_of
from tests.kernel.rig import Rig
from tests.kernel.sockets import name_of

PORTS = (80, 81)
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
ANSWER_SECONDS = 5.0
SILENCE_SECONDS = 0.15
"""How long a probe that must not be answered is watched after the last one that must be."""

Probe = tuple[str, str, int, bool]
"""(address, protocol, port, whether an answer is expected)"""


@dataclass
class Stage:
    """The pods of all states, each with servers and a prober, and the writer that knows them."""

    writer: Writer
    folders: list[tuple[Any, int]]
    probers: dict[str, Connection]

    def enforce(self, state: dict[str, Any]) -> None:
        if self.writer.cluster.complete:
            outcome = self.writer.update(snapshot(state), EVERYTHING)
        else:
            outcome = self.writer.start(snapshot(state), self.folders)
        assert not outcome.refused

    def probe(self, wanted: dict[str, list[Probe]]) -> dict[str, list[str]]:
        """By source; all sources at once."""
        for source, probes in wanted.items():
            self.probers[source].send(probes)
        return {source: self.probers[source].recv() for source in wanted}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    addresses = {
        f"{each['namespace']}/{each['name']}": each["ip"]
        for case in CASES for step in case["steps"] for each in step["state"]["pods"]
    }  # fmt: skip
    with ScratchNode() as node:
        datapath = Datapath(Pins(node.bpffs / "dagwall"), features(cgroup_mount()), cache=PROGRAM_CACHE)
        try:
            loaded = datapath.load()
            rig = Rig(node, datapath, loaded)
            rig.configure(flow_quota=1 << 20)
            pods = {name: node.add_pod(uid_of(name), ipv4=address) for name, address in addresses.items()}
            folders = [(uid_of(name), f.stat().st_ino) for name, p in pods.items() for f in (p.folder, p.container)]
            datapath.attach([node.kubepods])
            probers = {name: _staff(pod) for name, pod in pods.items()}
            yield Stage(Writer(rig.maps, IdentityNumbers(), Intake(lambda *_: None)), folders, probers)
        finally:
            detach(node.bpffs / "dagwall")
            datapath.close()


def _staff(pod: Pod) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    pod.spawn(_serve)
    pod.spawn(_probe_for_ever, theirs)
    theirs.close()
    return ours


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(stage: Stage, case: dict[str, Any]) -> None:
    for number, step in enumerate(case["steps"]):
        stage.enforce(step["state"])
        address = {f"{p['namespace']}/{p['name']}": p["ip"] for p in step["state"]["pods"]}
        wanted: dict[str, list[Probe]] = {}
        expected: dict[str, list[str]] = {}
        for each in step["expected"]:
            if each["protocol"] in KINDS:
                answers = _outcome(each) == "answered"
                probe = (address[each["to"]], each["protocol"], each["port"], answers)
                wanted.setdefault(each["from"], []).append(probe)
                expected.setdefault(each["from"], []).append(_outcome(each))
        seen = stage.probe(wanted)
        wrong = [
            f"{source} -> {probe}: {got}, not {right}"
            for source, probes in wanted.items()
            for probe, got, right in zip(probes, seen[source], expected[source], strict=True)
            if got != right
        ]
        assert not wrong, f"step {number}: {wrong[:5]}"


def _outcome(expected: dict[str, Any]) -> str:
    """A denial on the way out is told at once; one on the way in is silence. A pod may always talk to itself (P7)."""
    if expected["from"] == expected["to"]:
        return "answered"
    if not expected["egress"]:
        return "refused"
    return "answered" if expected["ingress"] else "silent"


# -- inside the pods


def _serve() -> None:
    """Accepts and closes; echoes datagrams."""
    with selectors.DefaultSelector() as selector:
        for kind in KINDS.values():
            for port in PORTS:
                sock = socket.socket(socket.AF_INET, kind)
                sock.bind(("", port))
                if kind is socket.SOCK_STREAM:
                    sock.listen(256)
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                sock = key.fileobj  # type: ignore[assignment]
                if sock.type is socket.SOCK_STREAM:
                    sock.accept()[0].close()
                else:
                    sock.sendto(*sock.recvfrom(64))


def _probe_for_ever(orders: Connection) -> None:
    while True:
        orders.send(_try_all(orders.recv()))


def _try_all(probes: list[Probe]) -> list[str]:
    """All at once: `refused` by this host, `answered`, or `silent`."""
    outcomes = ["silent"] * len(probes)
    due = {number for number, probe in enumerate(probes) if probe[3]}
    with selectors.DefaultSelector() as selector:
        for number, (address, protocol, port, _) in enumerate(probes):
            sock = socket.socket(socket.AF_INET, KINDS[protocol])
            sock.setblocking(False)
            try:
                if protocol == "TCP":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
                    sock.connect((address, port))
                else:
                    sock.sendto(b"x", (address, port))
            except BlockingIOError:
                pass
            except OSError as exc:
                outcomes[number] = "refused" if name_of(exc) in ("EACCES", "EPERM") else name_of(exc)
                sock.close()
                due.discard(number)
                continue
            selector.register(sock, selectors.EVENT_WRITE if protocol == "TCP" else selectors.EVENT_READ, number)
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end and selector.get_map():
            for key, _ in selector.select(SILENCE_SECONDS if not due else 0.5):
                sock = key.fileobj  # type: ignore[assignment]
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                outcomes[key.data] = "answered" if not error else f"error {error}"
                selector.unregister(sock)
                sock.close()
                due.discard(key.data)
            if not due:
                end = min(end, time.monotonic() + SILENCE_SECONDS)
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return outcomes
