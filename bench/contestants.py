"""What can stand in the path of a pod's packets: nothing, empty programs, dagwall, nftables."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.abi import structs
from agent.compiler.names import server_nodes
from agent.compiler.parts import part_nodes
from agent.kernel import lsm, syscall
from agent.kernel.datapath import Datapath
from agent.kernel.instructions import EXIT, set_register
from agent.kernel.pins import Pins
from agent.kernel.probe import Features, Jiffies, features, ticks_a_second
from agent.kernel.programs import HOOKS, Program
from agent.kernel.syscall import ProgType
from agent.model.identity import FIRST_IDENTITY
from agent.model.policy import HttpMatch, Tls
from agent.model.verdict import DropReason, EndpointState, Verdict
from agent.model.want import PORT_BITS, RulesetId, port_index
from agent.sync.entries import pack_part, pack_parts, pack_server, pack_servers
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount

ADDRESS = "10.88.0.2"
PORTS = range(7001, 7010)
HTTP_PORT, TLS_PORT = 7005, 7006
SERVER = "api.example.org"
PREFIXES = 1000
_RETURN_1 = set_register(0, 1) + EXIT


@dataclass
class Contestant:
    """`up` puts it into the path, `down` takes it away. `load` numbers its loads: placement alone moves the cost."""

    name: str
    load: int = 0

    def up(self) -> None:
        """Nothing: the path as it is."""

    def down(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Let go of what stays loaded."""

    def programs(self) -> dict[str, int]:
        """Descriptors of its programs by hook, for run-time statistics."""
        return {}


@dataclass
class Attached(Contestant):
    """Programs on hooks of the pods' root, by links that end with their descriptors."""

    root: Path = Path()
    fds: dict[str, int] = field(default_factory=dict)
    _links: list[int] = field(default_factory=list)

    def up(self) -> None:
        cgroup = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        hooks = [program for program in HOOKS if program.name in self.fds]
        self._links = [syscall.link_create(self.fds[p.name], cgroup, p.attach_type) for p in hooks]
        os.close(cgroup)

    def down(self) -> None:
        for link in self._links:
            os.close(link)
        self._links = []

    def programs(self) -> dict[str, int]:
        return {name: fd for name, fd in self.fds.items() if name in {p.name for p in HOOKS}}


def empty_programs(root: Path, load: int, *, without: frozenset[str] = frozenset()) -> Attached:
    """The floor: `return 1` on the hooks that dagwall uses on this kernel."""

    def one(program: Program) -> int:
        if program.prog_type is ProgType.LSM:
            return lsm.load("floor", _RETURN_1)
        return syscall.load_program(program.prog_type, program.attach_type, _RETURN_1)

    there = features(cgroup_mount()).as_dict()
    hooks = [p for p in HOOKS if p.name not in without and (not p.needs or there[p.needs])]
    fds = {program.name: one(program) for program in hooks}
    return Attached("floor", load, root, fds)


@dataclass
class Dagwall(Attached):
    """The product's programs with maps as a busy node has them."""

    datapath: Datapath | None = None

    def close(self) -> None:
        if self.datapath is not None:
            self.datapath.pins.remove_all()
            self.datapath.close()


@dataclass(frozen=True)
class Variant:
    """A way to load dagwall."""

    name: str
    managed: bool = True
    promote_packets: int = 256
    layer7: bool = False  # its rules ask for HTTP at HTTP_PORT, and for TLS at TLS_PORT


def dagwall(node: ScratchNode, pod: Pod, variant: Variant, features: Features, load: int) -> Dagwall:
    """Loaded into a pin folder of its own; 1,000 prefixes, 500 rulesets, 1,000 other endpoints."""
    pins = Pins(node.bpffs / f"{variant.name}-{load}")
    datapath = Datapath(pins, features, promote_packets=variant.promote_packets, cache=PROGRAM_CACHE)
    datapath.load()
    _fill(datapath, pod, managed=variant.managed)
    if variant.layer7:
        _demand(datapath)
    return Dagwall(variant.name, load, node.kubepods, datapath.programs, [], datapath)


def _fill(datapath: Datapath, pod: Pod, *, managed: bool) -> None:
    maps, jiffies = datapath.maps, Jiffies()
    hz = ticks_a_second()
    jiffies.close()
    level = len(pod.folder.relative_to(cgroup_mount()).parts)
    maps["config"].put(
        structs.U32.pack(value=0),
        structs.CONFIG.pack(
            heartbeat_ns=time.monotonic_ns(), loss_grace_ns=10**15, pod_level=(level, level - 1), hz=hz,
            reply_ticks=60 * hz, flush_ticks=hz, event_rate=10, event_burst=20, flow_quota=8192,
        ),
    )  # fmt: skip
    classes = structs.CLASSES.pack(peer=3, base=3)
    maps["peers"].put_all((_prefix(address, length), classes) for address, length in prefixes())
    allow = structs.RULE.pack(verdict=int(Verdict.ALLOW))
    maps["rules"].put_all(
        (structs.pack_rule_key(ruleset, peer_class, 0, (port_index(protocol, port), PORT_BITS)), allow)
        for ruleset in range(1, 501)
        for peer_class in (3, 4, 5)
        for protocol in (6, 17)
        for port in PORTS
    )
    deny = structs.RULE.pack(reason=int(DropReason.NO_RULE)) * 2
    own = structs.ENDPOINT.pack(
        identity=FIRST_IDENTITY + 1, ruleset=1, slot=1, defaults=deny,
        state=int(EndpointState.MANAGED if managed else EndpointState.UNMANAGED),
    )  # fmt: skip
    folders = [folder.stat().st_ino for folder in (pod.folder, pod.container)]
    other = structs.ENDPOINT.pack(identity=FIRST_IDENTITY + 2, ruleset=2, slot=2, state=1, defaults=deny)
    maps["endpoints"].put_all((structs.pack_folder(10**9 + i), other) for i in range(1000))
    maps["endpoints"].put_all((structs.pack_folder(folder), own) for folder in folders)
    maps["epochs"].put(structs.U32.pack(value=1), structs.EPOCH.pack(epoch=1))
    state = int(EndpointState.MANAGED if managed else EndpointState.UNMANAGED)
    maps["nearby"].put_all(
        (structs.U32.pack(value=f % structs.NEARBY_SLOTS), structs.NEARBY.pack(cgroup_id=f, epoch=1, state=state))
        for f in folders
    )


def _demand(datapath: Datapath) -> None:
    maps, one = datapath.maps, RulesetId(1)
    demands = (Tls((SERVER,)),), (HttpMatch(("GET",), "api.internal", "/v1/*"), HttpMatch(("POST",), "api.internal"))
    maps["servers"].put_all((pack_server(k), pack_servers(v)) for k, v in server_nodes(one, *demands).items())
    maps["parts"].put_all((pack_part(k), pack_parts(v)) for k, v in part_nodes(one, demands[1]).items())
    for port, asked in ((HTTP_PORT, {"requests": 0b11}), (TLS_PORT, {"hellos": 1})):
        row = structs.RULE.pack(verdict=int(Verdict.ALLOW), **asked)
        maps["rules"].put(structs.pack_rule_key(1, 3, 0, (port_index(6, port), PORT_BITS)), row)


def prefixes(count: int = PREFIXES, seed: int = 1) -> list[tuple[int, int]]:
    """IPv4 (address, length): mostly hosts, some networks; the server's address is one of them."""
    rng = random.Random(seed)
    found = {(int.from_bytes(socket.inet_aton(ADDRESS), "big"), 32)}
    while len(found) < count:
        length = rng.choices((32, 24, rng.randint(12, 23)), (70, 20, 10))[0]
        found.add((rng.getrandbits(32) & (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF, length))
    return sorted(found)


def _prefix(address: int, length: int) -> bytes:
    return structs.PREFIX.pack(length=96 + length, address=structs.pack_address((0xFFFF << 32) | address))


@dataclass
class Nftables(Contestant):
    """`socket cgroupv2` and a set of the same size, in the pod's namespace: one rule for each way."""

    pod: Pod | None = None
    conntrack: bool = False

    def up(self) -> None:
        assert self.pod is not None
        level = len(self.pod.container.relative_to(cgroup_mount()).parts)
        path = self.pod.container.relative_to("/sys/fs/cgroup")  # where nft looks, whatever is mounted where
        match = f'socket cgroupv2 level {level} "{path}"'
        elements = [f"{ADDRESS} . {protocol} . {port}" for protocol in ("tcp", "udp") for port in PORTS]
        elements += [
            f"{socket.inet_ntoa(address.to_bytes(4, 'big'))} . tcp . 5432"
            for address, length in prefixes()
            if length == 32
        ][1:]
        established = "ct state established,related counter accept" if self.conntrack else ""
        self._nft(f"""
table inet bench {{
  set allowed {{ type ipv4_addr . inet_proto . inet_service; elements = {{ {", ".join(elements)} }} }}
  chain out {{ type filter hook output priority 0; policy accept;
    {established}
    {match} ip daddr . meta l4proto . th dport @allowed counter accept
    {match} counter drop
  }}
  chain in {{ type filter hook input priority 0; policy accept;
    {established}
    {match} ip saddr . meta l4proto . th sport @allowed counter accept
    {match} counter drop
  }}
}}""")

    def down(self) -> None:
        self._nft("delete table inet bench")

    def _nft(self, text: str) -> None:
        assert self.pod is not None
        command = ["nsenter", f"--net=/run/netns/{self.pod.netns}", "nft", "-f", "-"]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr[-400:]}")


def without_sockops(contestant: Attached) -> Attached:
    """The same programs but one hook."""
    fds = {name: fd for name, fd in contestant.fds.items() if name != "sockops"}
    return replace(contestant, name=f"{contestant.name}-no-sockops", fds=fds)
