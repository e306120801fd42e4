"""What is known of a node before dagwall runs on it, and how it is read out of the node's own files. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import yaml

CAPABILITIES = {"NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_RESOURCE": 24}
"""Those that the agent needs, by their bits (capabilities(7)); deploy/base/daemonset.yaml has the reasons."""
SANDBOXES = {"runsc": "gVisor", "kata": "Kata Containers"}
"""Runtimes whose pods have a kernel or a network stack of their own, by a word of their configuration."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Texts are empty, and optional values None, where nothing could be read."""

    root: bool = True
    machine: str = "x86_64"
    release: str = "6.12.0"
    capabilities: frozenset[str] = frozenset(CAPABILITIES)
    libraries: str = ""  # why bcc or libbpf cannot be used
    programs: str = ""  # why no program can be loaded
    features: Mapping[str, bool] | None = None  # kernel.probe.Features
    btf: bool = True
    lsms: tuple[str, ...] | None = None  # the active ones
    lockdown: str = ""  # none, integrity, confidentiality
    cgroup_mount: str = "/sys/fs/cgroup"
    v1_controllers: frozenset[str] = frozenset()  # of the old kind of hierarchy
    memory_tree: bool = True  # the memory controller's tree is mounted from its root
    bpffs: str = "mounted"  # mounted, absent, or hidden: what a bpffs mounted there would hide
    exclusive: tuple[str, ...] = ()  # other programs that let nobody attach below them
    roots: tuple[str, ...] = ()  # of pods' cgroups
    pods: int = 0
    outside: tuple[str, ...] = ()  # pods' folders that are below no root
    kubelet_driver: str = ""  # systemd or cgroupfs, by its configuration
    runtime_driver: str = ""
    sandboxes: tuple[str, ...] = ()
    cni: tuple[str, ...] = ()  # networks, the first is the one that counts: NAME (PLUGIN, ...)
    log_folders: bool = True  # the kubelet's are there
    memory_bytes: int = 0  # of the node, that can be had now
    memory_limit_bytes: int = 0  # of this process's own group; 0: none
    ports_taken: tuple[int, ...] = ()  # of those that daemonset.yaml uses
    agent: bool = False  # one answers on its socket
    pinned: bool = False  # programs are attached already
    unreadable: tuple[str, ...] = field(default=())  # files of the host that are not to be seen from here


def version_of(release: str) -> tuple[int, int]:
    """`6.12.3-cloud` as (6, 12)."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def capabilities_of(status: str) -> frozenset[str]:
    """In the text of /proc/self/status: those in effect."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(found[1], 16) if found else 0
    return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def v1_controllers_of(mountinfo: str) -> frozenset[str]:
    """Controllers that are mounted as cgroup v1 in a text of /proc/self/mountinfo."""
    known = {"cpu", "memory", "pids", "blkio", "devices", "freezer", "cpuset", "net_cls"}
    lines = (line.partition(" - ")[2].split() for line in mountinfo.splitlines())
    options = (words[-1].split(",") for words in lines if words[:1] == ["cgroup"])
    return frozenset(name for names in options for name in names if name in known)


def cni_of(files: Mapping[str, str]) -> tuple[str, ...]:
    """Of the texts of a CNI configuration folder, by file name: runtimes take the first (by its name)."""
    found = []
    for name in sorted(files):
        try:
            network = json.loads(files[name])
            plugins = [str(plugin["type"]) for plugin in network.get("plugins") or [network]]
        except (ValueError, TypeError, KeyError, AttributeError):
            found.append(f"{name} (cannot be read)")
        else:
            found.append(f"{network.get('name') or name} ({', '.join(plugins)})")
    return tuple(found)


def kubelet_driver_of(config: str) -> str:
    """In a KubeletConfiguration; its default is cgroupfs. "" where the text is none."""
    try:
        found = yaml.safe_load(config)
    except yaml.YAMLError:
        return ""
    if not isinstance(found, dict) or found.get("kind") != "KubeletConfiguration":
        return ""
    return str(found.get("cgroupDriver") or "cgroupfs")


def runtime_driver_of(config: str) -> str:
    """In containerd's configuration; "" where it says nothing, and where runtimes differ."""
    said = set(re.findall(r"^\s*SystemdCgroup\s*=\s*(true|false)\s*$", config, re.MULTILINE))
    return {"true": "systemd", "false": "cgroupfs"}[said.pop()] if len(said) == 1 else ""


def sandboxes_of(configs: Iterable[str]) -> tuple[str, ...]:
    text = "\n".join(configs)
    return tuple(name for word, name in SANDBOXES.items() if word in text)
