"""Pods, rules and evidence for kernel tests: maps are written by hand, entry by entry, and read back."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from agent.abi import structs
from agent.kernel import syscall
from agent.kernel.datapath import Datapath, detach
from agent.kernel.loader import Loaded
from agent.kernel.maps import sum_per_cpu
from agent.kernel.pins import Pins
from agent.kernel.probe import Jiffies, features, ticks_a_second
from agent.kernel.programs import PROGRAMS, TAIL_ARRAYS, Tail
from agent.model.identity import FIRST_IDENTITY
from agent.model.verdict import Direction, DropReason, EndpointState, EventKind, Loss, Verdict
from agent.model.want import FIRST_ORDINARY, PORT_BITS, Lift, PortPrefix, port_index
from agent.semantics.names import WILDCARD
from agent.sync.entries import pack_name
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132


@contextlib.contextmanager
def attached(*without: str, **entries: int) -> Iterator[Rig]:
    """A scratch node with the programs attached to its pods' root; maps of these sizes, `without` these features."""
    with ScratchNode() as node:
        found = replace(features(cgroup_mount()), **dict.fromkeys(without, False))
        datapath = Datapath(Pins(node.bpffs / "dagwall"), found, entries, cache=PROGRAM_CACHE)
        try:
            rig = Rig(node, datapath, datapath.load())
            datapath.attach([node.kubepods])
            yield rig
        finally:
            detach(node.bpffs / "dagwall")
            datapath.close()


def at(protocol: int, port: int) -> PortPrefix:
    """One port; 0: what a rule without ports means, or of SCTP all others."""
    if port:
        return port_index(protocol, port), PORT_BITS
    return (0, 1) if protocol == SCTP else (FIRST_ORDINARY, 1)


class Rig:
    """Hands out rulesets, classes and slots; one `world` class for all addresses that no test has named."""

    def __init__(self, node: ScratchNode, datapath: Datapath, loaded: Loaded) -> None:
        self.node, self.datapath, self.maps, self.loaded = node, datapath, datapath.maps, loaded
        self._numbers = itertools.count(1)
        self.jiffies = Jiffies()
        self.hz = ticks_a_second()
        self.settings: dict[str, Any] = {}
        self.configure()

    def configure(self, **changes: Any) -> None:
        """The `config` map: sane values, and what a test wants else."""
        levels = len(self.node.kubepods.relative_to(cgroup_mount()).parts)
        self.settings = {
            "heartbeat_ns": time.monotonic_ns(), "loss_grace_ns": 3600 * 10**9, "loss_denies": 0,
            "pod_level": (levels + 2, levels + 1), "reply_ticks": 60 * self.hz, "flush_ticks": self.hz,
            "syn_ticks": 3, "syn_tries": 13, "event_rate": 1000, "event_burst": 1000, "flow_quota": 4096,
            "hz": self.hz, "name_least_s": 300, "name_most_s": 86400, **changes,
        }  # fmt: skip
        self.maps["config"].put(structs.U32.pack(value=0), structs.CONFIG.pack(**self.settings))

    def manage(
        self, pod: Pod, *, egress: Verdict = Verdict.DENY, ingress: Verdict = Verdict.DENY,
        state: EndpointState = EndpointState.MANAGED, flags: int = 0, slot: int = 0, ruleset: int = 0,
        containers: bool = True,
    ) -> tuple[int, int]:  # fmt: skip
        """Make the pod, and its container's folder, an endpoint with these defaults; its (slot, ruleset)."""
        number = next(self._numbers)
        slot, ruleset = slot or number, ruleset or number
        defaults = b"".join(
            structs.RULE.pack(verdict=int(v), reason=int(DropReason.NONE if v else DropReason.NO_RULE))
            for v in (egress, ingress)
        )
        value = structs.ENDPOINT.pack(
            identity=FIRST_IDENTITY + slot,
            ruleset=ruleset,
            slot=slot,
            state=int(state),
            flags=flags,
            defaults=defaults,
        )
        self.maps["epochs"].put(structs.U32.pack(value=slot), structs.EPOCH.pack(epoch=slot))
        for folder in (pod.folder, pod.container) if containers else (pod.folder,):
            self.maps["endpoints"].put(structs.pack_folder(folder.stat().st_ino), value)
        return slot, ruleset

    def forget(self, pod: Pod) -> None:
        for folder in (pod.folder, pod.container):
            self.maps["endpoints"].delete(structs.pack_folder(folder.stat().st_ino))

    def rule(
        self, ruleset: int, address: str, protocol: int, port: int, *, direction: Direction = Direction.EGRESS,
        verdict: Verdict = Verdict.ALLOW, reason: DropReason = DropReason.NONE, rule: int = 0, lift: Lift = Lift.NONE,
    ) -> None:  # fmt: skip
        """A verdict of a ruleset on one address (or prefix) and port; port 0: every one that no other row names."""
        self.maps["rules"].put(
            self._rule_key(ruleset, address, protocol, port, direction),
            structs.RULE.pack(rule=rule, verdict=int(verdict), reason=int(reason), lift=int(lift)),
        )

    def name_rule(self, ruleset: int, node: str, port: int) -> None:
        """Allows TCP to a name, or to all names of a suffix."""
        key = pack_name(node)
        number = next(self._numbers) + 1000
        self.maps["names"].put(key, structs.CLASSES.pack(peer=number, base=number))
        if node.startswith(WILDCARD):  # which does not mean the name that it stands below
            self.maps["names"].put(pack_name(node.removeprefix(WILDCARD)), structs.CLASSES.pack())
        row = structs.pack_rule_key(ruleset, number, int(Direction.EGRESS), at(TCP, port))
        self.maps["rules"].put(row, structs.RULE.pack(verdict=int(Verdict.ALLOW)))

    def dns_server(self, ruleset: int, address: str) -> None:
        """Allows it on 53, and makes it one of entity `dns`."""
        for protocol in (UDP, TCP):
            self.rule(ruleset, address, protocol, 53)
        number = self.peer(address)
        key = structs.PREFIX.pack(length=128, address=structs.pack_address(ip_address(address)))
        value = structs.CLASSES.pack(peer=number, base=number, flags=structs.ADDRESS_OF_DNS)
        self.maps["hosts"].put(key, value)

    def unrule(
        self, ruleset: int, address: str, protocol: int, port: int, *, direction: Direction = Direction.EGRESS
    ) -> None:
        """No verdict any more."""
        assert self.maps["rules"].delete(self._rule_key(ruleset, address, protocol, port, direction))

    def _rule_key(self, ruleset: int, address: str, protocol: int, port: int, direction: Direction) -> bytes:
        return structs.pack_rule_key(ruleset, self.peer(address), int(direction), at(protocol, port))

    def peer(self, address: str) -> int:
        """The class of an address or prefix; made where it has none."""
        text, _, length = address.partition("/")
        ip = ip_address(text)
        bits = int(length) + (96 if ip.version == 4 else 0) if length else 128
        key = structs.PREFIX.pack(length=bits, address=structs.pack_address(ip))
        value = self.maps["peers"].get(key) if (key in self.maps["peers"].keys()) else None  # noqa: SIM118
        if value is not None:
            return int(structs.CLASSES.unpack(value)["peer"])
        number = next(self._numbers) + 1000
        self.maps["peers"].put(key, structs.CLASSES.pack(peer=number, base=number))
        return number

    @contextlib.contextmanager
    def without_tails(self) -> Iterator[None]:
        """The tail arrays are empty meanwhile, as if a generation had lost its slow path."""
        folder = self.datapath.pins.programs(self.datapath.pins.generations()[-1])
        arrays = {name: syscall.open_pin(str(folder / name)) for name in TAIL_ARRAYS}
        tails = [(arrays[p.target.array], p.target.index, p.name) for p in PROGRAMS if isinstance(p.target, Tail)]
        for fd, index, _ in tails:
            syscall.map_delete(fd, structs.U32.pack(value=index))
        try:
            yield
        finally:
            for fd, index, name in tails:
                program = structs.U32.pack(value=self.datapath.programs[name])
                syscall.map_update(fd, structs.U32.pack(value=index), program)
            for fd in arrays.values():
                os.close(fd)

    def bump(self, slot: int) -> None:
        key = structs.U32.pack(value=slot)
        epoch = structs.EPOCH.unpack(self.maps["epochs"].get(key) or b"")
        value = structs.EPOCH.pack(epoch=epoch["epoch"] + 4096, evicted=epoch["evicted"])
        self.maps["epochs"].put(key, value)

    def flows(self, slot: int) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Entries of `flows` that a slot holds."""
        found = ((structs.FLOW_KEY.unpack(k), structs.FLOW.unpack(v)) for k, v in self.maps["flows"].items())
        return [(key, flow) for key, flow in found if flow["slot"] == slot]

    def totals(self, slot: int, direction: Direction = Direction.EGRESS) -> dict[str, int]:
        """Per-identity counters of the kernel, all CPUs together."""
        words = structs.IDENTITY_TOTALS.size // 8
        value = sum_per_cpu(self.maps["identities"].get(structs.U32.pack(value=slot)) or b"", words)
        names = list(structs.IDENTITY_COUNTS.fields)
        return dict(zip(names, value[int(direction) * len(names) :], strict=False))

    def losses(self) -> dict[Loss, int]:
        return {
            loss: sum_per_cpu(self.maps["losses"].get(structs.U32.pack(value=int(loss))) or b"", 1)[0]
            for loss in Loss
        }

    def denials(self, slot: int) -> dict[DropReason, int]:
        """Denied packets of a slot by reason."""
        out: dict[DropReason, int] = {}
        for k, v in self.maps["denials"].items():
            key = structs.DENIAL_KEY.unpack(k)
            if key["slot"] == slot:
                reason = DropReason(key["reason"])
                out[reason] = out.get(reason, 0) + structs.DENIAL.unpack(v)["packets"]
        return out

    def events(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """Everything in the ring buffer; waits `seconds` for the first record."""
        if seconds:
            self.datapath.events.wait(seconds)
        return [dict(structs.EVENT.unpack(raw)) for raw in self.datapath.events.read()]

    def event(self, kind: EventKind, **fields: Any) -> dict[str, Any]:
        """The first event of a kind whose fields have these values."""
        found = self.events()
        for event in found:
            if event["kind"] == kind and all(event[k] == v for k, v in fields.items()):
                return event
        raise AssertionError(f"no {kind.name} event with {fields} among {found}")


def eventually(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """True as soon as `check` is; polls."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.01)
    return check()
