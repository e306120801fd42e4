"""Classify a pod's cgroup folder: the first source that knows decides (L2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from agent.model.cluster import Cluster, Name, Pod
from agent.model.identity import PodUid, is_pod_uid, is_static_hash
from agent.model.verdict import EndpointState


class ClassifiedBy(str, Enum):
    """Who answered."""

    STATIC_HASH = "static pod's hash"  # L2a
    SNAPSHOT = "snapshot"  # L2b
    LOG_FOLDER = "kubelet's log folder"  # L2c
    NOBODY = "nobody"  # pending, until the API answers
    FIRST_BOOT = "first boot"  # no managed namespace was ever known here: passes, recorded as unclassified (L3)


@dataclass(frozen=True, slots=True)
class Classified:
    """State of a folder's endpoint; `namespace` and `name` as far as they are known, `pod` where the API knows it."""

    state: EndpointState  # PENDING, MANAGED or UNMANAGED; quarantine is the compiler's to decide
    by: ClassifiedBy
    namespace: str = ""
    name: str = ""
    pod: Pod | None = None

    @property
    def unclassified(self) -> bool:
        """It passes only because nobody can know better yet."""
        return self.by is ClassifiedBy.FIRST_BOOT


def classify(
    uid: PodUid, snapshot: Cluster, log_folders: Mapping[PodUid, Name], *, complete: bool, whole_truth: bool = False
) -> Classified:
    """Who the folder of `uid` is. `complete`: the namespaces were listed here once, now or before a restart.

    A namespace that is not in the snapshot may be one that was made a moment ago, or that could not be read: it is
    never taken for unmanaged, unless the snapshot is the whole truth, as a folder of manifests is.
    A static pod's hash is answered first: the annotation that repeats it in the API can be written by anyone.
    """
    if is_static_hash(uid):
        namespace, name = log_folders.get(uid, ("", ""))
        return Classified(EndpointState.UNMANAGED, ClassifiedBy.STATIC_HASH, namespace, name)
    pod = snapshot.pods.get(uid)
    if pod is not None:
        state = _state_in(pod.namespace, snapshot)
        if state is not EndpointState.PENDING:
            return Classified(state, ClassifiedBy.SNAPSHOT, pod.namespace, pod.name, pod)
    namespace, name = (pod.namespace, pod.name) if pod else log_folders.get(uid, ("", ""))
    foreign = whole_truth and complete and pod is None and namespace not in snapshot.namespaces
    if namespace and (foreign or _state_in(namespace, snapshot) is EndpointState.UNMANAGED):
        return Classified(EndpointState.UNMANAGED, ClassifiedBy.LOG_FOLDER, namespace, name)
    if not complete:
        return Classified(EndpointState.UNMANAGED, ClassifiedBy.FIRST_BOOT, namespace, name, pod)
    return Classified(EndpointState.PENDING, ClassifiedBy.NOBODY, namespace, name, pod)


def parse_log_folder(folder: str) -> tuple[PodUid, Name] | None:
    """`NAMESPACE_NAME_UID`, as the kubelet names folders in /var/log/pods; None for anything else."""
    parts = folder.split("_")
    if len(parts) != 3 or not all(parts) or not is_pod_uid(parts[2]):
        return None
    return PodUid(parts[2]), (parts[0], parts[1])


def _state_in(namespace: str, snapshot: Cluster) -> EndpointState:
    known = snapshot.namespaces.get(namespace)
    if known is None:
        return EndpointState.PENDING
    return EndpointState.MANAGED if known.managed else EndpointState.UNMANAGED
