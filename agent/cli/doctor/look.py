"""Reads the facts of this node. Changes nothing: programs that it loads to see whether they load end with their
descriptors, nothing is pinned, mounted or written.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.cli.doctor import facts
from agent.cli.doctor.facts import Facts
from agent.config import Config
from agent.errors import KernelError
from agent.kernel import memory_group, syscall
from agent.kernel.btf import LIBBPF
from agent.kernel.lsm import BTF
from agent.kernel.pins import Pins, is_bpffs
from agent.kernel.probe import features
from agent.kernel.syscall import AttachType
from agent.outputs.api import answers
from agent.sources.cgroups import ContainerFolder, PodFolder, RootFolder, find_cgroup2_mount, scan
from agent.sources.host import LOG_FOLDERS

_SECURITY = Path("/sys/kernel/security")
_BPFFS = Path("sys/fs/bpf")
_CNI = Path("etc/cni/net.d")
_KUBELET = (Path("var/lib/kubelet/config.yaml"), Path("etc/kubernetes/kubelet/config.json"))
_CONTAINERD = (Path("etc/containerd/config.toml"), Path("var/lib/rancher/k3s/agent/etc/containerd/config.toml"))
_PORTS = (9989, 9990)
_HOOKS = (
    AttachType.INET_INGRESS, AttachType.INET_EGRESS, AttachType.SOCK_CREATE, AttachType.SOCK_OPS, AttachType.CONNECT4,
    AttachType.CONNECT6, AttachType.SENDMSG4, AttachType.SENDMSG6, AttachType.SOCK_RELEASE,
)  # fmt: skip


def look(root: Path, pins: Path, agent_socket: Path) -> Facts:
    """root: where the host's files are."""
    mountinfo = _text(Path("/proc/self/mountinfo"))
    mount = _mount()
    seen = scan(mount) if mount else ()
    programs, found = _features(mount)
    kubelet, containerd = _first(root, _KUBELET), _first(root, _CONTAINERD)
    lsms = _text(_SECURITY / "lsm").strip()
    return Facts(
        root=os.geteuid() == 0,
        machine=platform.machine(),
        release=platform.release(),
        capabilities=facts.capabilities_of(_text(Path("/proc/self/status"))),
        libraries=_libraries(),
        programs=programs,
        features=found,
        btf=BTF.exists(),
        lsms=tuple(lsms.split(",")) if lsms else None,
        lockdown=_chosen(_text(_SECURITY / "lockdown")),
        cgroup_mount=str(mount or ""),
        v1_controllers=facts.v1_controllers_of(mountinfo),
        memory_tree=memory_group.hierarchy() is not None,
        bpffs=_bpffs(root / _BPFFS),
        exclusive=tuple(_exclusive(mount)) if mount else (),
        roots=tuple(each.path for each in seen if isinstance(each, RootFolder)),
        pods=len({each.uid for each in seen if isinstance(each, PodFolder)}),
        outside=tuple(sorted({str(each.uid) for each in seen if isinstance(each, ContainerFolder) and each.outside})),
        kubelet_driver=facts.kubelet_driver_of(kubelet),
        runtime_driver=facts.runtime_driver_of(containerd),
        sandboxes=facts.sandboxes_of([containerd]),
        cni=facts.cni_of(_files(root / _CNI)),
        log_folders=os.path.isdir(root / LOG_FOLDERS.relative_to("/")),
        memory_bytes=_available(_text(Path("/proc/meminfo"))),
        memory_limit_bytes=_limit(),
        ports_taken=tuple(port for port in _PORTS if _taken(port)),
        agent=answers(agent_socket),
        pinned=bool(Pins(pins).all_links()),
        unreadable=tuple(_unreadable(root)),
    )


def _unreadable(root: Path) -> Iterator[str]:
    for name, paths in (("the kubelet's configuration", _KUBELET), ("containerd's", _CONTAINERD), ("CNI's", (_CNI,))):
        if not any(os.access(root / path, os.R_OK) for path in paths):
            yield f"{name} ({root / paths[0]})"


def _mount() -> Path | None:
    with contextlib.suppress(KernelError, OSError):
        return find_cgroup2_mount()
    return None


def _features(mount: Path | None) -> tuple[str, Mapping[str, bool] | None]:
    """Why no program loads, else what the kernel has."""
    if mount is None:
        return "", None
    try:
        return "", features(mount).as_dict()
    except (KernelError, OSError) as exc:
        return str(exc), None


def _libraries() -> str:
    if importlib.util.find_spec("bcc") is None:
        return "Python's module bcc is not there"
    try:
        ctypes.CDLL(LIBBPF)
    except OSError as exc:
        return f"{LIBBPF} cannot be loaded: {exc}"
    return ""


def _bpffs(folder: Path) -> str:
    """As Facts.bpffs has it."""
    try:
        if folder.exists() and is_bpffs(folder):
            return "mounted"
        return next((entry.name for entry in folder.iterdir()), "absent")
    except OSError:
        return "absent"


def _exclusive(mount: Path) -> Iterator[str]:
    """Programs on the top of the tree that forbid all below it (kernel: hierarchy_allows_attach())."""
    try:
        top = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        for hook in _HOOKS:
            with contextlib.suppress(OSError):  # not root, or a hook that this kernel lacks
                numbers, flags = syscall.cgroup_query(top, hook)
                if numbers and not flags:
                    yield f"{hook.name.lower()} of {mount}: program {numbers[0]}"
    finally:
        os.close(top)


def _chosen(text: str) -> str:
    """`none [integrity] confidentiality`"""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else ""


def _available(meminfo: str) -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _limit() -> int:
    """Of this process's own group, in a cgroup namespace seen as the top."""
    tree = memory_group.hierarchy()
    if tree is None or tree.controllers:
        return 0
    text = _text(tree.mount / memory_group.own_group(tree).lstrip("/") / "memory.max").strip()
    return int(text) if text.isdigit() else 0


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(root: Path, paths: tuple[Path, ...]) -> str:
    return next(filter(None, (_text(root / path) for path in paths)), "")


def _files(folder: Path) -> dict[str, str]:
    try:
        names = [path for path in folder.iterdir() if path.suffix in (".conf", ".conflist", ".json")]
    except OSError:
        return {}
    return {path.name: _text(path) for path in names}


DEFAULT_PINS = Config(node="").pins
