"""What a cgroup's path names: whose pod, which container. Pure; recorded layouts are in docs/cgroups.md.

Both drivers (`kubepods-burstable-podUID.slice`, `podUID`), any nesting, static pods' hashes, containerd, CRI-O,
Docker. The top-most folder that names a pod decides: a privileged container can make any folder below its own. A root
is where the kubelet makes one, not where its name appears: who has a delegated tree makes folders of any name in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from agent.errors import InvalidObject
from agent.model.identity import PodUid

_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_SLICE = rf"(?:.+-)?kubepods(?:-burstable|-besteffort)?-pod(?P<uid>{_UID})\.slice"
_CONTAINER_ID = r"(?P<container>[0-9a-f]{64})"
_ROOT_SLICE = re.compile(r"(?:[^-]+-)*kubepods\.slice")
_ROOTS = ("/kubepods", "/kubelet/kubepods")  # of the kubelet's cgroupfs driver: by default, and in kind
_STRAY_LEVEL = 2  # where runtimes put what they put beside the pods: at the top, and in system.slice
_POD_SLICE = re.compile(_SLICE)
_POD_PLAIN = re.compile(rf"pod(?P<uid>{_UID})")
_CONTAINER = re.compile(rf"(?:(?:cri-containerd|crio|docker)-)?{_CONTAINER_ID}(?:\.scope)?")
_STRAY = re.compile(rf"{_SLICE}:(?:cri-containerd|crio|docker):{_CONTAINER_ID}")
NO_POD = PodUid("")


class Role(str, Enum):
    """What a folder is to dagwall."""

    OTHER = "other"  # above or beside the pods
    ROOT = "root"  # all pods of one tree are below: programs are attached here
    INNER = "inner"  # between a root and its pods: the QoS classes
    POD = "pod"
    CONTAINER = "container"
    BELOW = "below"  # inside a pod, and no container of the API


@dataclass(frozen=True, slots=True)
class Place:
    """What a path is, component by component. `root` is empty where no root is above: nothing enforces there."""

    path: str = "/"
    level: int = 0  # 0 is the mount's top
    role: Role = Role.OTHER
    root: str = ""
    among_pods: bool = False  # below a folder named as a pods' root, attached or not
    uid: PodUid = NO_POD
    container_id: str = ""


def step(parent: Place, name: str, roots: frozenset[str] = frozenset()) -> Place:
    """The place of the folder `name` in `parent`. `roots`: the only paths that are roots; none: by their names."""
    path = f"{parent.path.rstrip('/')}/{name}"
    here = replace(parent, path=path, level=parent.level + 1)
    if parent.uid:
        return _inside_pod(parent, here, name)
    named = not parent.among_pods and is_kubelets(path)
    is_root = not parent.root and (path in roots if roots else named)
    if is_root:
        here = replace(here, root=path)
    here = replace(here, among_pods=parent.among_pods or named or is_root)
    ours = here.among_pods or here.level <= _STRAY_LEVEL
    stray = _STRAY.fullmatch(name)
    if stray and ours:
        return replace(here, role=Role.CONTAINER, uid=_uid(stray), container_id=stray["container"])
    pod = _POD_SLICE.fullmatch(name) or (_POD_PLAIN.fullmatch(name) if here.among_pods else None)
    if pod and ours:
        return replace(here, role=Role.POD, uid=_uid(pod))
    if is_root:
        return replace(here, role=Role.ROOT)
    return replace(here, role=Role.INNER if here.among_pods else Role.OTHER)


def is_kubelets(path: str) -> bool:
    """Is this where a kubelet makes its root? One with another --cgroup-root needs ours.

    Slices are where systemd puts them: a-b.slice in a.slice (systemd.slice(5)).
    """
    if path in _ROOTS:
        return True
    name = path.rpartition("/")[2]
    if not _ROOT_SLICE.fullmatch(name):
        return False
    words = name.removesuffix(".slice").split("-")
    return path == "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


def parse_roots(texts: Iterable[str]) -> frozenset[str]:
    """--cgroup-root as `step` compares it: `/a/b`, seen from the cgroup mount. One that is misspelt finds nothing."""
    roots = set()
    for text in texts:
        parts = [part for part in text.split("/") if part]
        if not parts or any(part in (".", "..") for part in parts):
            raise InvalidObject("--cgroup-root", "", f"must be a path below the cgroup mount, not {text!r}")
        roots.add("/" + "/".join(parts))
    return frozenset(roots)


def place(path: str, roots: frozenset[str] = frozenset()) -> Place:
    """The place of a whole path, seen from the cgroup mount."""
    here = Place()
    for name in path.split("/"):
        if name:
            here = step(here, name, roots)
    return here


def _inside_pod(parent: Place, here: Place, name: str) -> Place:
    container = _CONTAINER.fullmatch(name) if parent.role is Role.POD else None
    if container:
        return replace(here, role=Role.CONTAINER, container_id=container["container"])
    return replace(here, role=Role.BELOW)


def _uid(match: re.Match[str]) -> PodUid:
    """systemd writes `_` for `-`, which separates slices."""
    return PodUid(match["uid"].replace("_", "-"))
