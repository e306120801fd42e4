"""Pod manifests. Only what model.cluster.Pod has is read; args and env are never read (S2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from agent.model.cluster import ContainerPort, Escape, Pod
from agent.model.identity import Claim, PodUid, is_pod_uid, is_static_hash
from agent.parse.addresses import parse_addresses, parse_port
from agent.parse.claims import keep_first, parse_claim, parse_name
from agent.parse.external import of_pod
from agent.parse.fields import Field

MOST_ADDRESSES, MOST_PORTS = 16, 1000
"""Of a pod; named ports of all its containers together."""
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_RUNTIME_DEFAULT = frozenset({"NET_RAW"})  # of containerd's and Docker's default set, what matters here
_ESCAPES = ("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF")
_HOST_PATHS = (
    "/sys", "/proc", "/dev", "/run", "/var/run", "/boot", "/root", "/bin", "/sbin", "/lib", "/lib64",
    "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/opt/cni", "/opt/bin",
    "/etc/kubernetes", "/etc/cni", "/etc/containerd", "/etc/crio", "/etc/docker", "/etc/systemd", "/etc/udev",
    "/etc/init.d", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/crontab", "/etc/ssh",
    "/etc/pam.d", "/etc/passwd", "/etc/shadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/profile.d",
    "/etc/ld.so.preload", "/etc/ld.so.conf.d", "/etc/modprobe.d", "/var/spool/cron", "/var/lib/kubelet",
    "/var/lib/containerd", "/var/lib/containers", "/var/lib/crio", "/var/lib/docker", "/var/lib/rancher",
    "/var/lib/etcd", "/var/lib/cni", "/var/lib/systemd", "/var/lib/dagwall", "/var/log/pods",
)  # fmt: skip
"""From here a pod can have others started on the node, leave its cgroup, or change what dagwall believes: its state
folder, and the log folders that settle pods without the API (L2). What holds one of them is as good as it."""
_BELOW = frozenset(tuple(path.strip("/").split("/")) for path in _HOST_PATHS)
_ABOVE = frozenset(parts[:n] for parts in _BELOW for n in range(len(parts)))
_DEPTHS = range(1, 1 + max(map(len, _BELOW)))
MOST_ESCAPES = 16
"""Of a pod, that are kept: whoever has so many may do what he likes."""


def parse_pod(pod: Field, *, cluster: str, first_claim: Claim | None) -> Pod:
    """A pod. With `first_claim`, that one stays in force, and a claim that became another is reported in it (I2)."""
    metadata, spec, status = pod.child("metadata"), pod.child("spec"), pod.child("status")
    claim = parse_claim(pod, cluster=cluster)
    uid = _uid(metadata.child("uid"))
    return Pod(
        uid=uid,
        namespace=claim.identity.namespace,
        name=parse_name(metadata.child("name")),
        claim=keep_first(first_claim, claim) if first_claim else claim,
        labels=claim.labels,
        addresses=parse_addresses([*_pod_ips(status), status.child("podIP")]),
        ports=tuple(_named_ports(spec)),
        node=parse_name(spec.child("nodeName")) if spec.child("nodeName").value else "",
        host_network=spec.child("hostNetwork").boolean(default=False),
        finished=status.child("phase").string("") in ("Succeeded", "Failed"),
        terminating=bool(metadata.child("deletionTimestamp").value),
        created=_seconds(metadata.child("creationTimestamp")),
        escapes=tuple(dict.fromkeys(_escapes(spec)))[:MOST_ESCAPES],
        external=of_pod(
            metadata.child("annotations"), spec, claim.identity.namespace, claim.identity.service_account
        ),
        cgroup_uids=(uid, *_static_hash(metadata.child("annotations"))),
    )


def _seconds(field: Field) -> float:
    """An RFC 3339 time in seconds since the epoch; 0 where there is none."""
    if not field.value:
        return 0.0
    try:
        found = datetime.fromisoformat(field.string().replace("Z", "+00:00"))
    except ValueError as exc:
        raise field.error(f"{field.string()[:60]!r} is no time; allowed: such as 2026-01-31T12:00:00Z") from exc
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _uid(field: Field) -> PodUid:
    """A pod without its real uid could never be found among the cgroups, and would look protected."""
    if field.absent:
        raise field.error("is missing; a pod is found by the uid in its cgroup's name")
    uid = field.string().lower()
    if not is_pod_uid(uid) or is_static_hash(uid):
        raise field.error(f"must be the pod's UUID, not {uid[:60]!r}")
    return PodUid(uid)


def _static_hash(annotations: Field) -> Iterator[PodUid]:
    """Static pods' folders carry this hash (docs/cgroups.md). Anyone can write it: it names no API pod's folder."""
    value = annotations.child("kubernetes.io/config.hash").string("")
    if is_static_hash(value) and annotations.child("kubernetes.io/config.source").string("api") != "api":
        yield PodUid(value)


def _pod_ips(status: Field) -> Iterator[Field]:
    for entry in status.child("podIPs").optional_items(MOST_ADDRESSES):
        yield entry.child("ip")


def _containers(spec: Field) -> Iterator[Field]:
    for group in _CONTAINERS:
        yield from spec.child(group).optional_items()


def _named_ports(spec: Field) -> Iterator[ContainerPort]:
    named = 0
    for container in _containers(spec):
        for port in container.child("ports").optional_items(MOST_PORTS):
            if port.child("name").value:
                named += 1
                if named > MOST_PORTS:
                    raise spec.error(f"has more than {MOST_PORTS:,} named ports, all containers together")
                yield parse_port(port, number="containerPort")


def _escapes(spec: Field) -> Iterator[Escape]:
    """Why cgroup programs cannot hold this pod (L8): each reason once, most severe first."""
    host_pid = spec.child("hostPID").boolean(default=False)
    contexts = [container.child("securityContext") for container in _containers(spec)]
    if any(context.child("privileged").boolean(default=False) for context in contexts):
        yield Escape("privileged")
    capabilities = {name for context in contexts for name in _capabilities(context.child("capabilities"))}
    everything = "ALL" in capabilities
    yield from (Escape(name) for name in _ESCAPES if everything or name in capabilities)
    if host_pid:
        yield Escape("hostPID with SYS_PTRACE" if everything or "SYS_PTRACE" in capabilities else "hostPID")
    yield from _host_paths(spec)


def _capabilities(capabilities: Field) -> Iterable[str]:
    """What a container has beyond harmless defaults: a runtime drops first, then adds."""
    added = {_capability(field) for field in capabilities.child("add").optional_items()}
    dropped = {_capability(field) for field in capabilities.child("drop").optional_items()}
    return added | (frozenset() if "ALL" in dropped else _RUNTIME_DEFAULT - dropped)


def _capability(field: Field) -> str:
    return field.string().upper().removeprefix("CAP_")


def _host_paths(spec: Field) -> Iterator[Escape]:
    """Parts of the node from which a pod can move itself out of its cgroup, or have others started outside (S6)."""
    for volume in spec.child("volumes").optional_items():
        path = volume.child("hostPath").child("path").string("")
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if path and (".." in parts or parts in _ABOVE or any(parts[:n] in _BELOW for n in _DEPTHS)):
            yield Escape("hostPath", f"/{'/'.join(parts)}"[:80])
