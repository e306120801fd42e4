"""A scratch node: a cgroup tree as the kubelet makes it, a network namespace for each pod, and one for the rest.

    pod netns  eth0 10.77.0.N, fd77::N  ---veth--->  "world" netns: every peer's address, routes to all pods

All of it is real; nothing of it is the host's. Needs root. Everything has the node's name in it and goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import subprocess
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lab.remains import bpffs_of, cgroup_of, hold, release, sweep, take_down

T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_serial = itertools.count()
PROGRAM_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dagwall" / "programs"
"""What one run has compiled, the next one loads."""


class PodProcessError(AssertionError):
    """Something inside a pod failed in a way that the test did not ask for."""


def cgroup_mount() -> Path:
    """The cgroup v2 mount point of this machine."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    raise RuntimeError("no cgroup v2 file system is mounted")


def ip(*commands: str, netns: str = "") -> None:
    """Run `ip` commands as one batch, in a named network namespace if one is given."""
    where = ["-n", netns] if netns else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip {commands}: {done.stderr}")


def _setns(path: str | int) -> None:
    fd = os.open(f"/proc/thread-self/fd/{path}" if isinstance(path, int) else path, os.O_RDONLY)
    try:
        if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


@contextlib.contextmanager
def in_netns(name: str) -> Iterator[None]:
    """The calling thread is in a named network namespace; sockets made there stay there."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    _setns(f"/run/netns/{name}")
    try:
        yield
    finally:
        _setns(before)
        os.close(before)


def join_cgroup(folder: Path) -> None:
    """Move the calling process."""
    (folder / "cgroup.procs").write_text("0")


@dataclass
class Pod:
    """One pod's folder, container's folder, namespace and addresses."""

    node: ScratchNode
    uid: str
    folder: Path
    container: Path
    netns: str
    ipv4: str
    ipv6: str
    children: list[int] = field(default_factory=list)

    @property
    def cgroup_id(self) -> int:
        return self.folder.stat().st_ino

    def run(self, function: Callable[..., T], *args: Any, timeout: float = 30) -> T:
        """`function(*args)` in a process of this pod; its result, or its exception."""
        reader, writer = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            self._child(writer, function, args)
        writer.close()
        try:
            if not reader.poll(timeout):
                raise PodProcessError(f"no answer from {function.__name__} within {timeout} s")
            outcome = pickle.loads(reader.recv_bytes())
        except EOFError as exc:
            raise PodProcessError(f"{function.__name__} died") from exc
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            reader.close()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def spawn(self, function: Callable[..., object], *args: Any) -> int:
        """The same, left running; its pid. Ended with the node."""
        pid = os.fork()
        if pid == 0:
            self._child(None, function, args)
        self.children.append(pid)
        return pid

    def _child(self, writer: Any, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Never returns."""
        try:
            if self.container.exists():
                join_cgroup(self.container)
            _setns(f"/run/netns/{self.netns}")
            outcome: object = function(*args)
        except BaseException as exc:  # noqa: BLE001  carried to the parent
            exc.__traceback__ = None
            outcome = exc
        try:
            data = pickle.dumps(outcome)
        except Exception:  # noqa: BLE001
            data = pickle.dumps(PodProcessError(traceback.format_exc()))
        if writer is not None:
            writer.send_bytes(data)
        os._exit(0)


class ScratchNode:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.name = f"dw{os.getpid():x}{next(_serial):x}"
        self.root = cgroup_of(self.name, cgroup_mount())
        self.kubepods = self.root / "kubepods"
        self.world = f"{self.name}-w"
        self.pods: list[Pod] = []
        self._servers: list[Server] = []
        self.bpffs = bpffs_of(self.name)  # of this node's own
        self._lock = -1

    def __enter__(self) -> ScratchNode:
        sweep(cgroup_mount())
        self._lock = hold(self.name)
        (self.kubepods / "burstable").mkdir(parents=True)
        self.bpffs.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self.bpffs)], check=True)
        ip(f"netns add {self.world}")
        ip("link set lo up", netns=self.world)
        with in_netns(self.world):
            for key, value in (("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")):
                Path(f"/proc/sys/net/{key}").write_text(value)
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.close()
        for pod in self.pods:
            for pid in pod.children:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        take_down(self.name, cgroup_mount())
        release(self.name, self._lock)

    def add_pod(self, uid: str | None = None, *, qos: str = "burstable", ipv4: str = "", ipv6: str = "") -> Pod:
        """A pod with one container, in the cgroupfs driver's layout."""
        uid = uid or str(uuid.uuid4())
        number = len(self.pods) + 10
        ipv4, ipv6 = ipv4 or f"10.77.0.{number}", ipv6 or f"fd77::{number:x}"
        parent = self.kubepods if qos == "guaranteed" else self.kubepods / qos
        folder = parent / f"pod{uid}"
        container = folder / (uuid.uuid4().hex * 2)
        container.mkdir(parents=True)
        pod = Pod(self, uid, folder, container, f"{self.name}-{len(self.pods)}", ipv4, ipv6)
        self.pods.append(pod)
        self._wire(pod)
        return pod

    def add_addresses(self, *addresses: str) -> None:
        """Peers' addresses: the world answers for them. Without `nodad` an IPv6 one may be tentative for a moment."""
        ip(
            *(f"addr replace {a}{'/128 dev lo nodad' if ':' in a else '/32 dev lo'}" for a in addresses),
            netns=self.world,
        )

    def serve(self, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> Server:
        """An echo server in the world."""
        self.add_addresses(address)
        server = Server(self.world, address, port, kind)
        self._servers.append(server)
        return server

    def _wire(self, pod: Pod) -> None:
        peer = f"v{len(self.pods)}"
        ip(f"netns add {pod.netns}")
        ip(
            # From the world's side: older kernels look for an eth0 where the command runs, and machines have one.
            f"link add {peer} type veth peer name eth0 netns {pod.netns}",
            f"addr add 169.254.7.1/32 dev {peer}",
            f"addr add fe80::7/64 dev {peer} nodad",
            f"link set {peer} up",
            f"route add {pod.ipv4}/32 dev {peer}",
            f"route add {pod.ipv6}/128 dev {peer}",
            netns=self.world,
        )
        ip(
            "link set lo up",
            f"addr add {pod.ipv4}/32 dev eth0",
            f"addr add {pod.ipv6}/128 dev eth0 nodad",
            "link set eth0 up",
            "route add 169.254.7.1 dev eth0",
            f"route add default via 169.254.7.1 src {pod.ipv4}",
            "route add default via fe80::7 dev eth0",
            netns=pod.netns,
        )


class Server:
    """Echoes what it gets, TCP or UDP; keeps what it has seen in `received`."""

    def __init__(self, netns: str, address: str, port: int, kind: socket.SocketKind) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with in_netns(netns):
            self._socket = socket.socket(family, kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self.port = self._socket.getsockname()[1]
        self.received: list[tuple[bytes, str]] = []
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        if kind == socket.SOCK_STREAM:
            self._socket.listen(64)
        self._socket.settimeout(0)
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def sendto(self, data: bytes, address: str, port: int) -> None:
        """A datagram from this server's own port."""
        self._socket.sendto(data, (address, port))

    def _loop(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                with contextlib.suppress(OSError):
                    self._serve(key.fileobj)  # type: ignore[arg-type]

    def _serve(self, ready: socket.socket) -> None:
        if ready is not self._socket:
            data = ready.recv(65536)
            if data:
                self.received.append((data, ready.getpeername()[0]))
                ready.sendall(data)
            else:
                self._selector.unregister(ready)
                ready.close()
        elif ready.type == socket.SOCK_STREAM:
            connection, _ = ready.accept()
            self._selector.register(connection, selectors.EVENT_READ)
        else:
            data, peer = ready.recvfrom(65536)
            self.received.append((data, peer[0]))
            ready.sendto(data, peer)
