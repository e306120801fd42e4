"""The kernel, this process's rights in it, and what its programs can find. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.doctor.facts import CAPABILITIES, Facts, version_of
from agent.cli.doctor.finding import Finding, Level

FLOOR = (5, 10)
_MEMLOCK_UNTIL = (5, 11)
MACHINES = ("aarch64", "x86_64")


def kernel(facts: Facts) -> Iterator[Finding]:
    old, machine = version_of(facts.release) < FLOOR, facts.machine not in MACHINES
    found = f"Linux {facts.release} on {facts.machine}"
    if old:
        yield Finding(Level.FAILS, "kernel", f"{found}: too old", "update to Linux 5.10 or newer")
    if machine:
        yield Finding(Level.FAILS, "kernel", f"{found}: no such build", f"use a machine of {' or '.join(MACHINES)}")
    if not old and not machine:
        yield Finding(Level.OK, "kernel", found)


def rights(facts: Facts) -> Iterator[Finding]:
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


def programs(facts: Facts) -> Iterator[Finding]:
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


def types(facts: Facts) -> Iterator[Finding]:
    if not facts.btf:
        found = "the kernel has no BTF (/sys/kernel/btf/vmlinux): no fqdn, no tls, no http, no lsm_cgroup"
        yield Finding(Level.WARNS, "BTF", found, "use a kernel with CONFIG_DEBUG_INFO_BTF")
    else:
        yield Finding(Level.OK, "BTF", "/sys/kernel/btf/vmlinux")
    if facts.lockdown == "confidentiality":
        found = (
            "the kernel is locked down (confidentiality): programs cannot read its memory; no fqdn, no tls, no http"
        )
        yield Finding(Level.WARNS, "lockdown", found, "boot with lockdown=integrity, or without")
    if facts.lsms is not None:
        yield Finding(Level.OK, "LSMs", ", ".join(facts.lsms) or "none")


_TYPED = "a kernel with BTF (CONFIG_DEBUG_INFO_BTF) that is not locked down"
_LATE = "policies with http are refused, and a first connection may wait a second until its pod is known"
_LACKS = (
    ("lsm_cgroup", "not covered", "", ""),
    ("netns_owner", "fqdn", "policies with fqdn are refused", _TYPED),
    ("write_seq", "tls", "policies with tls or http are refused", _TYPED),
    ("shared_frags", "http", "policies with http are refused", _TYPED),
    ("sockops", "delay", _LATE, "a kernel that has sock_ops"),
    ("sock_error", "why", "refused and timed out are told apart by what the peer sent", ""),
    ("set_retval", "errno", "a refused connect() says EPERM, not EACCES", ""),
    ("skb_netns", "sockets", "a passed-on socket's namespace is known as long as its maker's pod lives", ""),
)  # fmt: skip
"""Without the feature: a word, what that means, and what would give it."""


_WAYS_OUT = (
    "AF_PACKET and AF_XDP sockets: their frames skip the hooks; a pod needs NET_RAW for them",
    "AF_VSOCK sockets: they reach the hypervisor, past the hooks",
)


def features(facts: Facts) -> Iterator[Finding]:
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
