"""The agent's own settings: flags and one optional YAML file. Policy settings are in model.cluster.Settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class OnAgentLoss(str, Enum):
    """What new, unknown pods may do while the agent is dead (L6)."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings. Times in seconds, sizes in entries."""

    node: str
    files: Path | None = None  # the source: manifests in this folder; None: the API server
    kubeconfig: Path | None = None  # None: the pod's service account, else the default kubeconfig
    cgroup_mount: Path | None = None  # None: found in /proc/self/mountinfo
    cgroup_roots: frozenset[str] = frozenset()  # empty: every folder named as a pods' root
    log_folders: Path = Path("/var/log/pods")
    pins: Path = Path("/sys/fs/bpf/dagwall")
    state: Path = Path("/var/lib/dagwall")
    program_cache: Path | None = None  # compiled programs; None: a folder in `state`
    socket: Path = Path("/run/dagwall/dagwall.sock")
    metrics: str = "127.0.0.1:9990"  # host:port; "" serves none
    probes: str = ""  # host:port of /livez and /readyz alone; "" serves none beside those of `metrics`
    flow_log: Path | None = None
    hubble_socket: str | None = None  # of Hubble's services; None: beside `socket`; "" serves none
    hubble_listen: str = ""  # host:port of the same; "" serves none
    hubble_certificate: Path | None = None  # with its key and the CA of clients, for `hubble_listen`
    hubble_key: Path | None = None
    hubble_client_ca: Path | None = None
    hubble_flows: int = 4095  # kept for Hubble's services
    audit_log: Path | None = None
    audit_key: Path | None = None  # that signs it; None: one of this node's own, in `state`
    audit_files: int = 16  # of 64 MiB each, old ones kept beside the one that is written
    on_agent_loss: OnAgentLoss = OnAgentLoss.ALLOW
    loss_grace_seconds: float = 60.0
    reply_seconds: float = 60.0
    drain_seconds: float = 5.0
    tcp_idle_seconds: float = 900.0
    event_rate: int = 10
    event_burst: int = 20
    flow_quota: int = 8192
    dns_min_ttl_seconds: int = 300  # an address is known by a name for at least so long, whatever the answer's TTL is
    dns_max_ttl_seconds: int = 86400
    metric_series: int = 5000
    map_entries: dict[str, int] = field(default_factory=dict)
    managed_namespaces: frozenset[str] = frozenset()
