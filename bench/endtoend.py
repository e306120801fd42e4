"""Cost of a packet and of a connection, end to end and paired, of dagwall and of others at the same job.

Every round runs every contestant in random order; differences are taken to the round's own `none`; `none` runs twice
as the null test. The metric is CPU time of one thread that owns both ends, so that other load does not count.
"""

from __future__ import annotations

import contextlib
import os
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel.probe import features
from bench.contestants import ADDRESS, SERVER, Contestant, Nftables, Variant, dagwall, empty_programs, without_sockops
from lab.node import Pod, ScratchNode, cgroup_mount

MODES = ("udp_tx", "udp_rr", "udp_sendto", "tcp_rr", "tcp_crr", "tcp_conn", "tcp_stream")
PACKETS = {"udp_tx": 1, "udp_sendto": 1, "udp_rr": 2, "tcp_rr": 4}
"""Packets that meet a hook in one operation: TCP answers carry the ACK of what they answer, but not always."""
LAYER7_MODES = ("http_rr", "tls_crr", "tls_stream")
"""Of a connection that stays open a request; a connection with a hello; a KiB behind a hello."""
LOADS = 4
LONG, YOUNG, UNMANAGED = (
    Variant("dagwall"),
    Variant("dagwall-young", promote_packets=1 << 31),
    Variant("dagwall-unmanaged", managed=False),
)
LAYER7 = Variant("dagwall-layer7", layer7=True)


@dataclass
class Results:
    """ns an operation: [mode][contestant] -> one difference to `none` a round."""

    added: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    base: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, mode: str, name: str) -> float:
        return statistics.median(self.added[mode][name])

    def null(self, mode: str) -> float:
        """Null test: the second `none`, in percent of the first."""
        return 100 * abs(self.median(mode, "none2")) / statistics.median(self.base[mode])


class Load:
    """The load generator, running inside the pod."""

    def __init__(self, node: ScratchNode, pod: Pod, folder: Path) -> None:
        binary = folder / "load"
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(binary), str(source)], check=True)
        cpu = max(os.sched_getaffinity(0))
        hello = folder / "hello"
        hello.write_bytes(_hello(SERVER))
        procs = str(pod.container / "cgroup.procs")
        command = [str(binary), node.world, pod.netns, procs, ADDRESS, str(cpu), str(hello)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ns_per_operation(self, mode: str, milliseconds: int) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{mode} {milliseconds}\n")
        self._process.stdin.flush()
        _, operations, cpu_ns, error = self._process.stdout.readline().split()
        if int(error) or not int(operations):
            raise RuntimeError(f"{mode}: {os.strerror(int(error))} after {operations} operations")
        return int(cpu_ns) / int(operations)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Comparison:
    """One run: contestants on a scratch node, rounds of all modes."""

    contestants: dict[str, list[Contestant]]
    load: Load
    milliseconds: int
    results: Results = field(default_factory=Results)

    def round(self, number: int, mode: str) -> None:
        """Every contestant once, in random order; each round has another load of its programs."""
        took: dict[str, float] = {}
        for name in random.sample(list(self.contestants), len(self.contestants)):
            contestant = self.contestants[name][number % len(self.contestants[name])]
            contestant.up()
            try:
                took[name] = self.load.ns_per_operation(mode, self.milliseconds)
            finally:
                contestant.down()
        self.results.base[mode].append(took["none"])
        for name, ns in took.items():
            self.results.added[mode][name].append(ns - took["none"])


def _hello(server: str) -> bytes:
    """As this machine's OpenSSL begins."""
    context, outgoing = ssl.create_default_context(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server).do_handshake()
    return outgoing.read()


def measure(rounds: int, milliseconds: int, modes: tuple[str, ...] = MODES) -> Results:
    """The whole comparison on a scratch node of its own; progress goes to standard error."""
    return _measure(rounds, milliseconds, modes, _contestants)


def measure_layer7(rounds: int, milliseconds: int) -> Results:
    """What rules with `http` and `tls` cost beside rules without."""
    return _measure(rounds, milliseconds, LAYER7_MODES, _of_layer7)


def _measure(
    rounds: int,
    milliseconds: int,
    modes: tuple[str, ...],
    made: Callable[[ScratchNode, Pod], dict[str, list[Contestant]]],
) -> Results:
    with ScratchNode() as node, tempfile.TemporaryDirectory() as folder:
        pod = node.add_pod()
        node.add_addresses(ADDRESS)
        tune(node, pod)
        comparison = Comparison(made(node, pod), Load(node, pod, Path(folder)), milliseconds)
        try:
            for number in range(rounds):
                for mode in modes:
                    _progress(f"round {number + 1} of {rounds}: {mode} ...")
                    comparison.round(number, mode)
        finally:
            comparison.load.close()
            for contestant in (c for loads in comparison.contestants.values() for c in loads):
                contestant.close()
    _progress("")
    return comparison.results


def _progress(text: str) -> None:
    """On a terminal, one line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


def _contestants(node: ScratchNode, pod: Pod) -> dict[str, list[Contestant]]:
    found, root = features(cgroup_mount()), node.kubepods
    out: dict[str, list[Contestant]] = {"none": [Contestant("none")], "none2": [Contestant("none2")]}
    out["floor"] = [empty_programs(root, load) for load in range(LOADS)]
    for variant in (LONG, YOUNG, UNMANAGED):
        _progress(f"loading {variant.name} {LOADS} times ...")
        out[variant.name] = [dagwall(node, pod, variant, found, load) for load in range(LOADS)]
    out["dagwall-no-sockops"] = [without_sockops(c) for c in out["dagwall"]]  # type: ignore[arg-type]
    out["floor-no-sockops"] = [without_sockops(c) for c in out["floor"]]  # type: ignore[arg-type]
    out["nft"] = [Nftables("nft", 0, pod)]
    out["nft-ct"] = [Nftables("nft-ct", 0, pod, conntrack=True)]
    return out


def _of_layer7(node: ScratchNode, pod: Pod) -> dict[str, list[Contestant]]:
    found = features(cgroup_mount())
    out: dict[str, list[Contestant]] = {"none": [Contestant("none")], "none2": [Contestant("none2")]}
    for variant in (LONG, LAYER7):
        _progress(f"loading {variant.name} {LOADS} times ...")
        out[variant.name] = [dagwall(node, pod, variant, found, load) for load in range(LOADS)]
    return out


def tune(node: ScratchNode, pod: Pod) -> None:
    for netns in (node.world, pod.netns):
        for setting in ("net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_max_tw_buckets=2000"):
            subprocess.run(["ip", "netns", "exec", netns, "sysctl", "-qw", setting], check=False, capture_output=True)
