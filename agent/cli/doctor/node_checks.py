"""Cgroups, pods, network, memory, and what else is on the node. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.doctor.facts import Facts
from agent.cli.doctor.finding import Finding, Level

_MIB = 1024 * 1024
_NEEDS_BYTES = 512 * _MIB
"""The limit that daemonset.yaml gives the agent."""


def cgroups(facts: Facts) -> Iterator[Finding]:
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


def bpffs(facts: Facts) -> Iterator[Finding]:
    if facts.bpffs == "mounted":
        yield Finding(Level.OK, "bpffs", "mounted on /sys/fs/bpf")
    elif facts.bpffs == "absent":
        do = "nothing on Kubernetes: daemonset.yaml mounts one; elsewhere the agent does"
        yield Finding(Level.OK, "bpffs", "not mounted on /sys/fs/bpf yet", do)
    else:
        found = f"none on /sys/fs/bpf, and one mounted there would hide {facts.bpffs}"
        yield Finding(Level.FAILS, "bpffs", found, "mount -t bpf bpf /sys/fs/bpf, or name another folder by --pins")


def pods(facts: Facts) -> Iterator[Finding]:
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


def network(facts: Facts) -> Iterator[Finding]:
    if not facts.cni:
        return
    first = facts.cni[0]
    if "cilium" in first.lower():
        found = f"{first}: its kube-proxy replacement rewrites addresses behind dagwall's hook; not measured"
        do = "try a policy with a service on one node first; `dagwall flows` shows the addresses that count"
        yield Finding(Level.WARNS, "CNI", found, do)
    else:
        yield Finding(Level.OK, "CNI", f"{first}: dagwall needs none in particular")


def memory(facts: Facts) -> Iterator[Finding]:
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


def others(facts: Facts) -> Iterator[Finding]:
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
