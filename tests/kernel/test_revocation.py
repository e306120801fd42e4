"""Revocation is complete (P10): what the new revision denies is over within a second, however it was opened."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agent.abi.structs import CREATOR, CREATOR_SLOTS, ENDPOINT, NEARBY, NEARBY_SLOTS, U32, pack_folder
from agent.app.agent import Agent
from agent.errors import MapError
from agent.kernel import syscall
from agent.kernel.maps import KernelMap
from agent.kernel.namespaces import MOST
from agent.kernel.pins import Pins
from agent.kernel.syscall import AttachType, ProgType
from agent.model.verdict import EndpointState
from agent.node.node import HEALTH_SECONDS
from agent.sync.entries import pack_index
from lab.node import Pod, in_netns, join_cgroup
from tests.kernel.rig import eventually
from tests.kernel.test_agent import NAMESPACE, Machine, machine, pod_manifest  # noqa: F401  machine is a fixture
from tests.kernel.test_faults import ALLOW_ALL

SECONDS = 1.0
PEERS = {4: "192.0.2.50", 6: "2001:db8::50"}
ELSEWHERE = {4: "192.0.2.99", 6: "2001:db8::99"}
PORT, OWN_PORT = 8001, 9001
KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
OPEN = "open"
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
OBSERVING = NAMESPACE.replace("posture: deny", "posture: observe")


def policy(direction: str, peer: str) -> str:
    side, port = ("to", PORT) if direction == "egress" else ("from", OWN_PORT)
    return f"""
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: p, namespace: airflow}}
spec:
  subject: {{}}
  {direction}:
  - name: only
    {side}: [{{cidr: {peer}/{128 if ":" in peer else 32}}}]
    ports: [{{port: {port}}}]
"""


def reusing(family: int, address: str, port: int) -> socket.socket:
    """A bound socket beside which others may be bound."""
    sock = socket.socket(KINDS[family])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, port))
    return sock


class Held:
    """A process of a pod that holds connections and says how they are."""

    def __init__(self, pod: Pod) -> None:
        self.here, there = Pipe()
        self.pid = pod.spawn(_serve_orders, there)

    def __call__(self, *order: Any) -> Any:
        self.here.send(order)
        assert self.here.poll(30), f"no answer to {order[0]}"
        answer = self.here.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ended(self) -> bool:
        return all(state == "ECONNABORTED" for state in self("states"))


class Scene:
    """A managed pod whose policy allows one peer, a server at that peer, and the pod's connections."""

    def __init__(self, machine: Machine, family: int, direction: str = "egress") -> None:  # noqa: F811
        self.machine, self.family, self.direction = machine, family, direction
        self.pod = machine.node.add_pod()
        self.address = self.pod.ipv4 if family == 4 else self.pod.ipv6
        machine.node.serve(PEERS[family], PORT)
        machine.write("pod.yaml", pod_manifest("p", self.pod.uid, self.address))
        self.allow(PEERS[family])
        self.held = Held(self.pod)
        self.clients: list[socket.socket] = []

    def allow(self, peer: str) -> None:
        self.machine.write("policy.yaml", policy(self.direction, peer))

    def open(self, count: int = 1) -> None:
        if self.direction == "egress":
            assert self.held("connect", self.family, PEERS[self.family], PORT, count) == [OPEN] * count
            return
        self.held("listen", self.family, OWN_PORT)
        for _ in range(count):
            self.come_in()
        assert self.held("accept", count) == [OPEN] * count

    def come_in(self, port: int = 0) -> None:
        """The peer connects."""
        with in_netns(self.machine.node.world):
            client = reusing(self.family, PEERS[self.family], port)
            client.settimeout(5)
            client.connect((self.address, OWN_PORT))
            self.clients.append(client)

    def revoked(self, *, peer: str = "") -> float:
        """Seconds from the edit to the end of the last connection."""
        began = time.monotonic()
        self.allow(peer or ELSEWHERE[self.family])
        assert eventually(self.held.ended, 10), self.held("states")
        return time.monotonic() - began


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["egress", "ingress"])
def scene(machine: Machine, family: int, request: pytest.FixtureRequest) -> Iterator[Scene]:  # noqa: F811
    made = Scene(machine, family, request.param)
    yield made
    for client in made.clients:
        client.close()


def test_silent_ones(scene: Scene) -> None:
    with scene.machine.agent():
        scene.open(3)
        assert scene.revoked() < SECONDS


def test_their_flow_stays_while_they_are_open_and_goes_after_them(scene: Scene) -> None:
    with scene.machine.agent(tcp_idle_seconds=0.5) as agent:
        scene.open()
        time.sleep(2)
        assert _flows(agent), "who opened it would be forgotten"
        scene.held("close")
        for client in scene.clients:
            client.close()
        assert eventually(lambda: not _flows(agent))


def test_evicted_ones(scene: Scene) -> None:
    with scene.machine.agent() as agent:
        scene.open(2)
        flows = agent.datapath.maps["flows"]
        flows.delete_all(flows.keys())
        assert scene.revoked() < SECONDS


def test_ones_that_found_no_room(scene: Scene) -> None:
    with scene.machine.agent(flow_quota=0) as agent:
        scene.open(2)
        assert not _flows(agent)
        if scene.direction == "ingress":
            scene.held("close_listener")
        scene.held("send")
        assert set(scene.held("states")) == {OPEN}
        assert scene.revoked() < SECONDS


def test_ones_that_are_older_than_dagwall(scene: Scene) -> None:
    scene.open(2)
    scene.allow(ELSEWHERE[scene.family])
    with scene.machine.agent():
        assert eventually(scene.held.ended, SECONDS), scene.held("states")


def test_ones_that_are_older_and_allowed_go_on_and_end_later(scene: Scene) -> None:
    scene.open(2)
    with scene.machine.agent():
        scene.held("send")
        time.sleep(0.3)
        assert set(scene.held("states")) == {OPEN}
        assert scene.revoked() < SECONDS


def test_ones_that_are_older_than_the_label(scene: Scene) -> None:
    scene.machine.write("namespace.yaml", NAMESPACE.replace('"true"', '"false"'))
    with scene.machine.agent():
        scene.open(2)
        scene.allow(ELSEWHERE[scene.family])
        scene.machine.write("namespace.yaml", NAMESPACE)
        assert eventually(scene.held.ended, SECONDS), scene.held("states")


def test_a_socket_that_was_passed_to_another_pod(machine: Machine, family: int) -> None:  # noqa: F811
    scene = Scene(machine, family)
    other = machine.node.add_pod()
    receiver = Held(other)
    path = str(machine.folder / "socket")
    with machine.agent():
        scene.open()
        receiver("receive", path)
        scene.held("hand_over", path)
        assert receiver("take") == [OPEN]
        began = time.monotonic()
        scene.allow(ELSEWHERE[family])
        assert eventually(receiver.ended, SECONDS), receiver("states")
        assert time.monotonic() - began < SECONDS


def test_two_thousand_at_once(machine: Machine, family: int) -> None:  # noqa: F811
    scene = Scene(machine, family)
    with machine.agent():
        scene.open(2000)
        began = time.monotonic()
        scene.allow(ELSEWHERE[family])
        assert scene.held("wait_for_the_end", 10.0) - began < SECONDS


@pytest.mark.parametrize("on_host", [False, True], ids=["own network", "the host's"])
def test_ones_whose_makers_folder_has_gone(machine: Machine, on_host: bool) -> None:  # noqa: F811
    """Made in a folder below the container's, which the process left and removed: no way leads from it to the pod."""
    scene = Scene(machine, 4)
    if on_host:
        manifest = pod_manifest("p", scene.pod.uid, scene.address)
        machine.write("pod.yaml", manifest.replace("spec: {", "spec: {hostNetwork: true, "))
    inner = scene.pod.container / "inner"
    inner.mkdir()
    with machine.agent():
        (inner / "cgroup.procs").write_text(str(scene.held.pid))
        scene.open(2)
        (scene.pod.container / "cgroup.procs").write_text(str(scene.held.pid))
        inner.rmdir()
        assert scene.revoked() < SECONDS


def test_what_stays_allowed_stays(scene: Scene) -> None:
    with scene.machine.agent():
        scene.open(2)
        scene.machine.write(
            "more.yaml", policy(scene.direction, ELSEWHERE[scene.family]).replace("name: p,", "name: q,")
        )
        time.sleep(0.5)
        scene.machine.write("more.yaml", "")
        (scene.machine.files / "more.yaml").unlink()
        time.sleep(1)
        assert set(scene.held("states")) == {OPEN}


@pytest.mark.parametrize("directions", [0, 2])
def test_ones_from_a_port_that_the_pod_listens_on(machine: Machine, family: int, directions: int) -> None:  # noqa: F811
    """Ingress is open to all, nobody knows who made the socket, and `flows` has neither direction, or both (P9)."""
    machine.write("namespace.yaml", OBSERVING)
    scene = Scene(machine, family)
    with machine.agent() as agent:
        assert scene.held("connect_from", family, PEERS[family], PORT, OWN_PORT) == [OPEN]
        scene.held("listen_beside", family, OWN_PORT)
        forget_creators(agent)
        flows = agent.datapath.maps["flows"]
        if directions:
            scene.come_in()
        else:
            flows.delete_all(flows.keys())
        assert len(_flows(agent)) == directions
        assert scene.revoked() < SECONDS


def test_accepted_ones_from_a_port_that_the_pod_connects_to(machine: Machine, family: int) -> None:  # noqa: F811
    """The listener has gone; the pod's own connection has the other direction's flow, and goes on."""
    machine.write("namespace.yaml", OBSERVING)
    scene = Scene(machine, family, "ingress")
    with in_netns(machine.node.world):
        world = reusing(family, PEERS[family], PORT + 1)
        world.listen(1)
    with machine.agent() as agent:
        assert scene.held("connect", family, PEERS[family], PORT + 1, 1) == [OPEN]
        scene.clients.append(world.accept()[0])
        world.close()
        scene.held("listen", family, OWN_PORT)
        scene.come_in(PORT + 1)
        assert scene.held("accept", 1) == [OPEN, OPEN]
        scene.held("close_listener")
        forget_creators(agent)
        scene.held("send")
        assert len(_flows(agent)) == 2
        scene.allow(ELSEWHERE[family])
        assert eventually(lambda: bool(scene.held("states") == [OPEN, "ECONNABORTED"]), SECONDS), scene.held("states")


def forget_creators(agent: Agent) -> None:
    """As if sockets without end had been made."""
    zero = CREATOR.pack()
    agent.datapath.maps["creators"].put_all((U32.pack(value=n), zero) for n in range(CREATOR_SLOTS))


def test_one_in_a_folder_below_the_container(machine: Machine, family: int) -> None:  # noqa: F811
    """As crun makes one (cgroup v2, CRI-O)."""
    scene = Scene(machine, family)
    inner = scene.pod.container / "container"
    inner.mkdir()
    (inner / "cgroup.procs").write_text(str(scene.held.pid))
    try:
        with machine.agent():
            scene.open(2)
            assert scene.revoked() < SECONDS
    finally:
        (scene.pod.container / "cgroup.procs").write_text(str(scene.held.pid))
        inner.rmdir()


def test_after_a_map_that_refused_the_revocation(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What mends the maps carries out the revision, its end of connections included."""
    refused: list[str] = []
    put_all = KernelMap.put_all

    def refuse_once(self: KernelMap, items: Iterable[tuple[bytes, bytes]]) -> None:
        kept = list(items)
        if kept and self.name == "rules" and not refused:
            refused.append(self.name)
            raise MapError("rules: no memory")
        put_all(self, kept)

    with scene.machine.agent():
        scene.open()
        monkeypatch.setattr(KernelMap, "put_all", refuse_once)
        assert scene.revoked() < HEALTH_SECONDS + SECONDS
        assert refused


def test_ones_that_were_opened_while_a_map_said_something_else(scene: Scene) -> None:
    scene.allow(ELSEWHERE[scene.family])
    with scene.machine.agent() as agent:
        _put_off_health(agent)
        _open_up(agent, scene.pod)
        scene.open()
        assert eventually(scene.held.ended, 2 * HEALTH_SECONDS + SECONDS), scene.held("states")


def test_ones_that_were_opened_while_a_hook_was_off(machine: Machine, family: int) -> None:  # noqa: F811
    """Another program is in our links, until that is found."""
    scene = Scene(machine, family)
    scene.allow(ELSEWHERE[family])
    with machine.agent() as agent:
        _put_off_health(agent)
        for hook in (f"connect{family}", "egress", "ingress"):
            program = syscall.load_program(*_KINDS_OF_HOOKS[hook], ALLOW_ALL)
            link = syscall.open_pin(str(next(Pins(machine.config().pins).links.glob(f"*/{hook}"))))
            syscall.link_update(link, program)
            os.close(program)
            os.close(link)
        scene.open()
        assert eventually(scene.held.ended, 2 * HEALTH_SECONDS + SECONDS), scene.held("states")
        assert agent.node.health.problems.keys() <= {"hooks"}


def test_a_denied_connect_from_a_folder_below_the_container(machine: Machine) -> None:  # noqa: F811
    """To a link's address, so that the packet is denied and not connect(). No folder known is the socket's."""
    pod = machine.node.add_pod()
    machine.write("pod.yaml", pod_manifest("p", pod.uid, pod.ipv4))
    inner = pod.container / "one" / "two"
    inner.mkdir(parents=True)
    try:
        with machine.agent():
            assert pod.run(_connect_from, str(inner), "fe80::7%eth0") == "ECONNABORTED"
    finally:
        inner.rmdir()
        inner.parent.rmdir()


def test_their_flow_stays_too_where_the_process_is_in_a_folder_below(machine: Machine) -> None:  # noqa: F811
    scene = Scene(machine, 4)
    inner = scene.pod.container / "container"
    inner.mkdir()
    (inner / "cgroup.procs").write_text(str(scene.held.pid))
    try:
        with machine.agent(tcp_idle_seconds=0.5) as agent:
            scene.open()
            time.sleep(2)
            assert _flows(agent), "who opened it would be forgotten"
            scene.held("close")
            assert eventually(lambda: not _flows(agent))
    finally:
        (scene.pod.container / "cgroup.procs").write_text(str(scene.held.pid))
        inner.rmdir()


@pytest.mark.parametrize("others", [0, MOST], ids=["alone", "among_many"])
def test_ones_of_a_process_that_has_left_the_network_namespace(machine: Machine, others: int) -> None:  # noqa: F811
    """For one of its own, as anybody may: the pod's own one is that of its other process."""
    scene = Scene(machine, 4)
    with machine.agent():
        scene.open()
        scene.held("leave")
        for _ in range(others):
            Held(scene.pod)("leave")
        scene.pod.spawn(time.sleep, 60)
        assert scene.revoked() < SECONDS


def test_while_another_pod_floods(machine: Machine) -> None:  # noqa: F811
    """With thousands of sockets that stay in it (P7), and denials one after the other."""
    scene, other = Scene(machine, 4), machine.node.add_pod()
    machine.write("other.yaml", pod_manifest("other", other.uid, other.ipv4, dag="other"))
    with machine.agent() as agent:
        scene.open()
        flood = Held(other)
        flood("fill", 4000)
        flood.here.send(("flood", "fe80::1234%eth0", 5.0))
        time.sleep(4)
        assert agent.node.parts.closer.ended > 10, "there is no flood"
        assert scene.revoked() < SECONDS
        assert flood.here.poll(10)


def _put_off_health(agent: Agent) -> None:
    """So that it does not mend what the test breaks before the test is done; and the sweep of the start is over."""
    time.sleep(0.5)
    agent.node._timers.health = time.monotonic() + HEALTH_SECONDS


_KINDS_OF_HOOKS = {
    "connect4": (ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT4),
    "connect6": (ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT6),
    "egress": (ProgType.CGROUP_SKB, AttachType.INET_EGRESS),
    "ingress": (ProgType.CGROUP_SKB, AttachType.INET_INGRESS),
}


def _open_up(agent: Agent, pod: Pod) -> None:
    """As another program on this node might."""
    maps = agent.datapath.maps
    for folder in (pod.folder, pod.container):
        number = folder.stat().st_ino
        value = bytearray(maps["endpoints"].get(pack_folder(number)) or b"")
        value[ENDPOINT.offsets["state"]] = int(EndpointState.UNMANAGED)
        maps["endpoints"].put(pack_folder(number), bytes(value))
        maps["nearby"].put(pack_index(number % NEARBY_SLOTS), bytes(NEARBY.size))


def _flows(agent: Agent) -> list[bytes]:
    return agent.datapath.maps["flows"].keys()


# -- inside the pod


def _serve_orders(orders: Connection) -> None:
    held = _Sockets()
    while True:
        name, *arguments = orders.recv()
        try:
            orders.send(getattr(held, name)(*arguments))
        except Exception as exc:  # noqa: BLE001  carried to the test
            orders.send(exc)


class _Sockets:
    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.listener: socket.socket | None = None

    def connect(self, family: int, address: str, port: int, count: int) -> list[str]:
        for _ in range(count):
            sock = socket.socket(KINDS[family])
            sock.settimeout(10)
            sock.connect((address, port))
            self.sockets.append(sock)
        return self.states()

    def listen(self, family: int, port: int) -> None:
        self.listener = socket.create_server(("", port), family=KINDS[family], backlog=64)

    def connect_from(self, family: int, address: str, port: int, own_port: int) -> list[str]:
        self.sockets.append(reusing(family, "", own_port))
        self.sockets[-1].connect((address, port))
        return self.states()

    def listen_beside(self, family: int, port: int) -> None:
        self.listener = reusing(family, "", port)
        self.listener.listen(8)

    def accept(self, count: int) -> list[str]:
        assert self.listener is not None
        self.sockets += [self.listener.accept()[0] for _ in range(count)]
        return self.states()

    def close_listener(self) -> None:
        assert self.listener is not None
        self.listener.close()

    def send(self) -> None:
        for sock in self.sockets:
            sock.send(b"x")

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets = []

    def states(self) -> list[str]:
        return [_state(sock) for sock in self.sockets]

    def wait_for_the_end(self, seconds: float) -> float:
        """When the last one was over, on the monotonic clock."""
        with selectors.DefaultSelector() as selector:
            for sock in self.sockets:
                selector.register(sock, selectors.EVENT_READ)
            deadline = time.monotonic() + seconds
            while selector.get_map() and time.monotonic() < deadline:
                for key, _ in selector.select(0.1):
                    assert _state(key.fileobj) == "ECONNABORTED"  # type: ignore[arg-type]
                    selector.unregister(key.fileobj)
            assert not selector.get_map(), f"{len(selector.get_map())} are open"
        return time.monotonic()

    def leave(self) -> None:
        """The pod's network namespace, without any privilege."""
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")

    def fill(self, count: int) -> None:
        """So many connections that stay in the pod."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        listener = socket.create_server(("127.0.0.1", 2000), backlog=128)
        for _ in range(count):
            self.sockets += [socket.create_connection(("127.0.0.1", 2000)), listener.accept()[0]]

    def flood(self, address: str, seconds: float) -> None:
        """Connects that are denied."""
        to, end, kept = socket.getaddrinfo(address, 9)[0][4], time.monotonic() + seconds, []
        while time.monotonic() < end:
            kept = [socket.socket(socket.AF_INET6), *kept[:50]]
            kept[0].setblocking(False)
            with contextlib.suppress(OSError):
                kept[0].connect(to)
            time.sleep(0.01)

    def receive(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)

    def take(self) -> list[str]:
        assert self.listener is not None
        _, fds, _, _ = socket.recv_fds(self.listener.accept()[0], 1, 1)
        self.sockets.append(socket.socket(fileno=fds[0]))
        return self.states()

    def hand_over(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as way:
            way.connect(path)
            socket.send_fds(way, [b"x"], [self.sockets[0].fileno()])


def _connect_from(folder: str, address: str) -> str:
    """What a connect to this address gets in a folder."""
    join_cgroup(Path(folder))
    with socket.socket(socket.AF_INET6) as sock:
        sock.settimeout(3)
        try:
            sock.connect(socket.getaddrinfo(address, 9)[0][4])
        except OSError as exc:
            return errno.errorcode.get(exc.errno or 0, repr(exc))
    return "ok"


def _state(sock: socket.socket) -> str:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        _FAILED[sock.fileno()] = code
    code = code or _FAILED.get(sock.fileno(), 0)
    return errno.errorcode[code] if code else OPEN


_FAILED: dict[int, int] = {}
