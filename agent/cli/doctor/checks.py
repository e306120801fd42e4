"""What the facts of a node mean for dagwall, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from agent.cli.doctor.facts import CAPABILITIES, Facts, version_of

_MIB = 1024 * 1024
_NEEDS_BYTES = 512 * _MIB
"""The limit that daemonset.yaml gives the agent."""
FLOOR = (5, 10)
_MEMLOCK_UNTIL = (5, 11)
MACHINES = ("aarch64", "x86_64")


class Level(str, Enum):
    OK = "ok"
    WARNS = "warns"  # works, and something is not covered or costs
    FAILS = "fails"  # would not work, or would not hold


@dataclass(frozen=True, slots=True)
class Finding:
    """`do` is empty where nothing is to be done."""

    level: Level
    what: str
    found: str
    do: str = ""


Check = Callable[[Facts], Iterator[Finding]]


def findings(facts: Facts) -> tuple[Finding, ...]:
    return tuple(finding for check in CHECKS for finding in check(facts))


def _kernel(facts: Facts) -> Iterator[Finding]:
    old, machine = version_of(facts.release) < FLOOR, facts.machine not in MACHINES
    found = f"Linux {facts.release} on {facts.machine}"
    if old:
        yield Finding(Level.FAILS, "kernel", f"{found}: too old", "update to Linux 5.10 or newer")
    if machine:
        yield Finding(Level.FAILS, "kernel", f"{found}: no such build", f"use a machine of {' or '.join(MACHINES)}")
    if not old and not machine:
        yield Finding(Level.OK, "kernel", found)


def _rights(facts: Facts) -> Iterator[Finding]:
    needed = [name for name in sorted(CAPABILITIES) if name != "SYS_RESOURCE" or _locks_memory(facts)]
    lacking = [name for name in needed if name not in facts.capabilities]
    if not facts.root:
        yield Finding(Level.FAILS, "rights", "not root: most of the rest cannot be seen", "run this as root")
    elif lacking:
        do = (
            "give the container these capabilities, as daemonset.yaml does (OpenShift: the chart's openshift.enabled)"
        )
        yield Finding(Level.FAILS, "rights", f"without {', '.join(lacking)}", do)
    else:
        yield Finding(Level.OK, "rights", f"root with {', '.join(needed)}")


def _locks_memory(facts: Facts) -> bool:
    return version_of(facts.release) < _MEMLOCK_UNTIL


def _programs(facts: Facts) -> Iterator[Finding]:
    if facts.libraries:
        do = "install the distribution's python3-bpfcc (never bcc from PyPI), or use dagwall's image"
        yield Finding(Level.FAILS, "bcc", facts.libraries, do)
    if facts.programs:
        do = "let this process load BPF programs: capabilities, seccomp profile, lockdown, security modules"
        yield Finding(Level.FAILS, "bpf", facts.programs, do)
    elif facts.features is not None:
        yield Finding(Level.OK, "bpf", "programs load")
    for text in facts.exclusive:
        do = "have its owner attach with BPF_F_ALLOW_MULTI, or take it off: nothing can be attached below it"
        yield Finding(Level.FAILS, "bpf", f"another program is alone: {text}", do)


def _cgroups(facts: Facts) -> Iterator[Finding]:
    unified = "boot with systemd.unified_cgroup_hierarchy=1 (cgroup v2), and have kubelet and runtime use it"
    if not facts.cgroup_mount:
        yield Finding(Level.FAILS, "cgroup v2", "is not mounted", unified)
    elif facts.v1_controllers:
        found = f"mounted on {facts.cgroup_mount}, and {', '.join(sorted(facts.v1_controllers))} are cgroup v1"
        if facts.pods:
            yield Finding(Level.WARNS, "cgroup v2", f"{found}; there are pods in it all the same", unified)
        else:
            yield Finding(
                Level.FAILS, "cgroup v2", f"{found}: kubelets put pods there, where nothing sees them", unified
            )
    else:
        yield Finding(Level.OK, "cgroup v2", f"mounted on {facts.cgroup_mount}")
    if facts.cgroup_mount and not facts.memory_tree:
        found = "the memory controller's tree cannot be reached: maps are charged to the agent's own limit"
        do = "mount the host's /sys/fs/cgroup, and use hostPID, as daemonset.yaml does"
        yield Finding(Level.WARNS, "memory", found, do)


def _bpffs(facts: Facts) -> Iterator[Finding]:
    if facts.bpffs == "mounted":
        yield Finding(Level.OK, "bpffs", "mounted on /sys/fs/bpf")
    elif facts.bpffs == "absent":
        do = "nothing on Kubernetes: daemonset.yaml mounts one; elsewhere the agent does"
        yield Finding(Level.OK, "bpffs", "not mounted on /sys/fs/bpf yet", do)
    else:
        found = f"none on /sys/fs/bpf, and one mounted there would hide {facts.bpffs}"
        yield Finding(Level.FAILS, "bpffs", found, "mount -t bpf bpf /sys/fs/bpf, or name another folder by --pins")


def _pods(facts: Facts) -> Iterator[Finding]:
    if facts.kubelet_driver and facts.runtime_driver and facts.kubelet_driver != facts.runtime_driver:
        found = (
            f"the kubelet's is {facts.kubelet_driver}, the runtime's {facts.runtime_driver}: no program sees the pods"
        )
        do = "set both to systemd (cgroupDriver; SystemdCgroup of containerd), and restart the node's pods"
        yield Finding(Level.FAILS, "cgroup drivers", found, do)
    elif facts.outside:
        found = f"{len(facts.outside)} pods' containers are outside the pods' roots: {', '.join(facts.outside[:3])}"
        do = "give kubelet and runtime the same cgroup driver (docs/cgroups.md)"
        yield Finding(Level.FAILS, "cgroup drivers", found, do)
    elif facts.kubelet_driver or facts.runtime_driver:
        yield Finding(Level.OK, "cgroup drivers", facts.kubelet_driver or facts.runtime_driver)
    if facts.roots:
        yield Finding(Level.OK, "pods", f"{facts.pods} below {', '.join(facts.roots)}")
    elif facts.cgroup_mount:
        do = "start the kubelet; if it runs with a --cgroup-root of its own, name that by --cgroup-root"
        yield Finding(Level.WARNS, "pods", "no root of pods in the cgroup tree: nothing would be enforced", do)
    if facts.sandboxes:
        found = f"{' and '.join(facts.sandboxes)} are set up: no hook sees the packets of their pods"
        yield Finding(Level.WARNS, "not covered", found, "run tasks with runc (no runtimeClassName)")


def _network(facts: Facts) -> Iterator[Finding]:
    if not facts.cni:
        return
    first = facts.cni[0]
    if "cilium" in first.lower():
        found = f"{first}: its kube-proxy replacement rewrites addresses behind dagwall's hook; not measured"
        do = "try a policy with a service on one node first; `dagwall flows` shows the addresses that count"
        yield Finding(Level.WARNS, "CNI", found, do)
    else:
        yield Finding(Level.OK, "CNI", f"{first}: dagwall needs none in particular")


_TYPED = "a kernel with BTF (CONFIG_DEBUG_INFO_BTF) that is not locked down"
_LACKS = (
    ("lsm_cgroup", "not covered", "", ""),
    ("netns_owner", "fqdn", "policies with fqdn are refused", _TYPED),
    ("write_seq", "tls", "policies with tls are refused", _TYPED),
    ("sockops", "delay", "a first connection may wait a second until its pod is known", "a kernel that has sock_ops"),
    ("sock_error", "why", "refused and timed out are told apart by what the peer sent", ""),
    ("set_retval", "errno", "a refused connect() says EPERM, not EACCES", ""),
    ("skb_netns", "sockets", "a passed-on socket's namespace is known as long as its maker's pod lives", ""),
)  # fmt: skip
"""Without the feature: a word, what that means, and what would give it."""


_WAYS_OUT = (
    "AF_PACKET and AF_XDP sockets: their frames skip the hooks; a pod needs NET_RAW for them",
    "AF_VSOCK sockets: they reach the hypervisor, past the hooks",
)


def _features(facts: Facts) -> Iterator[Finding]:
    """Those with nothing to do are as they should be on such a kernel."""
    if facts.features is None:
        return
    for name, what, means, do in _LACKS:
        if facts.features.get(name, False):
            continue
        if name == "lsm_cgroup":
            yield from _without_lsm(facts)
        else:
            yield Finding(Level.WARNS if do else Level.OK, what, f"no {name}: {means}", do and f"use {do}")
    held = [name for name, there in facts.features.items() if there]
    yield Finding(Level.OK, "features", ", ".join(held) or "none beyond the least")


def _without_lsm(facts: Facts) -> Iterator[Finding]:
    """Ways out that no hook sees (S6)."""
    if facts.lsms is not None and "bpf" not in facts.lsms and version_of(facts.release) >= (6, 0):
        do = f"boot with lsm={','.join((*facts.lsms, 'bpf'))}"
    else:
        do = "use Linux 6.0 or newer with BPF among the active LSMs"
    do += "; until then drop NET_RAW from tasks and give them seccompProfile RuntimeDefault"
    for text in _WAYS_OUT:
        yield Finding(Level.WARNS, "not covered", text, do)


def _types(facts: Facts) -> Iterator[Finding]:
    if not facts.btf:
        found = "the kernel has no BTF (/sys/kernel/btf/vmlinux): no fqdn, no tls, no lsm_cgroup"
        yield Finding(Level.WARNS, "BTF", found, "use a kernel with CONFIG_DEBUG_INFO_BTF")
    else:
        yield Finding(Level.OK, "BTF", "/sys/kernel/btf/vmlinux")
    if facts.lockdown == "confidentiality":
        found = "the kernel is locked down (confidentiality): programs cannot read its memory; no fqdn, no tls"
        yield Finding(Level.WARNS, "lockdown", found, "boot with lockdown=integrity, or without")
    if facts.lsms is not None:
        yield Finding(Level.OK, "LSMs", ", ".join(facts.lsms) or "none")


def _memory(facts: Facts) -> Iterator[Finding]:
    need = f"{_NEEDS_BYTES // _MIB} MiB"
    if facts.memory_limit_bytes and facts.memory_limit_bytes < _NEEDS_BYTES:
        found = f"this group may have {facts.memory_limit_bytes // _MIB} MiB, daemonset.yaml gives {need}"
        yield Finding(Level.WARNS, "memory", found, f"raise the limit to {need}, or watch the agent's restarts")
    if not facts.memory_bytes:
        return
    found = f"{facts.memory_bytes // _MIB} MiB can be had"
    if facts.memory_bytes < _NEEDS_BYTES:
        yield Finding(Level.WARNS, "memory", f"{found}, the agent may take {need}", "use a bigger node for tasks")
    else:
        yield Finding(Level.OK, "memory", found)


def _others(facts: Facts) -> Iterator[Finding]:
    if facts.agent:
        yield Finding(Level.OK, "agent", "one answers here", "dagwall status")
    elif facts.pinned:
        do = "dagwall run goes on from there; dagwall detach takes them off"
        yield Finding(Level.OK, "agent", "none answers, and its programs are attached", do)
    for port in () if facts.agent else facts.ports_taken:
        do = "name another port: --metrics, --probes, --hubble-listen (metrics.port, probes.port, ... of the chart)"
        yield Finding(Level.FAILS, "ports", f"{port} is taken, which daemonset.yaml uses", do)
    if not facts.log_folders:
        found = "the kubelet's /var/log/pods is not there: a pod is known when the API server tells, a moment later"
        yield Finding(Level.WARNS, "log folders", found, "name the kubelet's by --log-folders")
    if facts.unreadable:
        found = f"not to be seen from here: {', '.join(facts.unreadable)}"
        yield Finding(Level.OK, "host's files", found, "name where the host's files are by --root, such as /host")


CHECKS: tuple[Check, ...] = (
    _kernel, _rights, _programs, _cgroups, _bpffs, _pods, _network, _types, _features, _memory, _others
)  # fmt: skip
"""In the order in which they are shown."""
