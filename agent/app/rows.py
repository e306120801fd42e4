"""The rows of a View: identities, denials, hooks, maps, and what people should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from agent.abi.structs import ENDPOINT_SLOTS, EPOCH, IDENTITY_SLOTS, SLOT
from agent.app.agent import Agent
from agent.compiler.unmatched import unmatched_services
from agent.flows.decode import RawDenials
from agent.kernel.maps import KernelMap
from agent.kernel.probe import Features
from agent.kernel.programs import HOOKS
from agent.model.classify import ClassifiedBy
from agent.model.cluster import Cluster
from agent.model.identity import FIRST_IDENTITY, Identity, IdentityNumber
from agent.model.policy import RuleRef
from agent.model.report import DenialRow, EndpointRow, HookState, IdentityRow, MapFill, Status
from agent.model.verdict import EndpointState
from agent.model.want import RuleId
from agent.node.flow_drain import FlowDrain
from agent.node.node import Node
from agent.node.state import LINKS_WERE_LOST, PINS_WERE_GONE
from agent.outputs.words import reason_name

_ESCAPES = {
    "NET_RAW": "AF_PACKET frames skip cgroup hooks, and lsm_cgroup is off on this node; drop the capability",
    "privileged": "it can load and remove programs, and leave its cgroup",
}

_WITHOUT_LSM = (
    "AF_PACKET and AF_XDP: frames skip the cgroup hooks; needs NET_RAW (listed below where a pod has it)",
    "AF_VSOCK: reaches the hypervisor; no cgroup hook sees it (seccompProfile RuntimeDefault refuses it)",
)
_ANYWHERE = (
    "sockets made outside of the pods' folders: by a container runtime whose socket is mounted, or a host daemon",
)
SHOWN_PEERS = 10


def not_covered(features: Features) -> tuple[str, ...]:
    """Ways out that no program sees on this node (S6): for everyone, whatever the policies say."""
    return _ANYWHERE if features.lsm_cgroup else _WITHOUT_LSM + _ANYWHERE


def identity_row(identity: Identity, number: IdentityNumber, endpoints: int, drain: FlowDrain) -> IdentityRow:
    both = drain.identity_totals(number - FIRST_IDENTITY).values()
    return IdentityRow(
        number=number,
        namespace=identity.namespace,
        service_account=identity.service_account,
        dag_id=identity.dag_id,
        task_id=identity.task_id,
        kind=identity.kind.value,
        ambiguous=identity.ambiguous,
        endpoints=endpoints,
        sent_bytes=sum(each.sent_bytes for each in both),
        received_bytes=sum(each.received_bytes for each in both),
        sent_packets=sum(each.sent_packets for each in both),
        received_packets=sum(each.received_packets for each in both),
        connections=sum(each.connections for each in both),
        audited=sum(each.audited for each in both),
        denied_packets=sum(each.denied_packets for each in both),
    )


def denial_rows(raw: list[RawDenials], rules: Mapping[RuleId, RuleRef]) -> tuple[DenialRow, ...]:
    """Rows of slots that had the same identity are one."""
    packets: Counter[tuple[int, str, str, str, str]] = Counter()
    sizes: Counter[tuple[int, str, str, str, str]] = Counter()
    for row in raw:
        rule = str(rules.get(RuleId(row.rule)) or "")
        key = (row.identity, reason_name(row.reason), rule, row.direction.name.lower(), row.verdict.name.lower())
        packets[key] += row.packets
        sizes[key] += row.bytes
    return tuple(DenialRow(*key, packets=count, bytes=sizes[key]) for key, count in packets.items())


def hook_states(agent: Agent) -> tuple[HookState, ...]:
    """Every hook that should be on every root, with what the kernel says."""
    attached = {(a.cgroup_id, a.hook): a.program_id for a in agent.datapath.attached() if a.ours}
    instructions = agent.loaded.instructions
    return tuple(
        HookState(
            hook=program.name,
            root=root.path,
            attached=(root.cgroup_id, program.name) in attached,
            program_id=attached.get((root.cgroup_id, program.name), 0),
            instructions=instructions[program.name],
        )
        for root in agent.node.folders.roots.values()
        for program in HOOKS
        if program.name in instructions
    )


def known_fill(node: Node, maps: Mapping[str, KernelMap], identities: int) -> tuple[MapFill, ...]:
    """Maps that only the agent writes: it knows what is in them without reading."""
    want, endpoints = node.writer.want, node.writer.endpoints
    used = {
        "endpoints": len(endpoints.by_folder),
        "peers": len(want.peers),
        "hosts": len(want.hosts),
        "rules": len(want.rules),
    }
    fill = [MapFill(name, count, maps[name].entries) for name, count in used.items() if name in maps]
    fill.append(MapFill("identities", min(identities, IDENTITY_SLOTS), IDENTITY_SLOTS))
    return (*fill, MapFill("slots", len(endpoints.by_slot), ENDPOINT_SLOTS))


def read_fill(maps: Mapping[str, KernelMap], denials: int) -> tuple[MapFill, ...]:
    """Maps that the kernel fills. `flows` by what each slot inserted and what was evicted: no walk over the flows."""
    inserted = sum(sum(SLOT.unpack(value)["inserted"]) for _, value in maps["slots"].items())
    evicted = sum(sum(EPOCH.unpack(value)["evicted"]) for _, value in maps["epochs"].items())
    flows = min(max(0, inserted - evicted), maps["flows"].entries)
    used = {"flows": flows, "denials": denials, "pending": len(maps["pending"].keys())}
    return tuple(MapFill(name, count, maps[name].entries) for name, count in used.items())


def unenforceable(rows: tuple[EndpointRow, ...]) -> list[str]:
    """L8: the agent must never let a pod look held that is not."""
    return [
        f"{row.namespace}/{row.pod}: {escape}: {_ESCAPES.get(escape, 'it can reach the node outside of its cgroup')}"
        for row in rows
        if row.state in ("managed", "quarantined")
        for escape in row.escapes
    ]


def notices(node: Node) -> list[str]:
    """For people; what the rows say is added by `with_rows`."""
    cluster = node.writer.cluster
    out = []
    if not cluster.complete:
        out.append("the sources have not listed everything yet: nothing is taken away")
    stale = node.source.stale_seconds()
    if stale > 0:
        out.append(f"the API server has not answered for {stale:.0f} s: the last snapshot is enforced")
    out += node.without_events()
    if node.pins_were_gone:
        out.append(f"at this agent's start: {PINS_WERE_GONE}")
    out += [f"at this agent's start, lost for good: {text}" for text in node.forgotten()[:SHOWN_PEERS]]
    if node.datapath.lost:
        out.append(f"at this agent's start: {LINKS_WERE_LOST}: {', '.join(node.datapath.lost)}")
    if cluster.settings.audit_everything:
        out.append("--posture audit: every policy only reports what it would deny")
    natives = len(cluster.network_policies)
    if natives and not cluster.settings.network_policy:
        out.append(f"{natives} NetworkPolicies are not enforced by this agent: --network-policy is off")
    if not any(namespace.managed for namespace in cluster.namespaces.values()):
        out.append("no namespace is managed: label one dagwall.io/managed=true, or use --managed-namespace")
    return out


def peer_notices(cluster: Cluster) -> tuple[str, ...]:
    """Rules whose `service` matches nothing (P13)."""
    found = list(map(str, unmatched_services(cluster))) if cluster.complete else []
    more = (f"and {len(found) - SHOWN_PEERS} more rules name a service that matches nothing",)
    return (*found[:SHOWN_PEERS], *(more if len(found) > SHOWN_PEERS else ()))


def with_rows(status: Status, rows: tuple[EndpointRow, ...]) -> Status:
    """The status with what the endpoints' rows say."""
    counts = Counter(row.state for row in rows)
    return replace(
        status,
        notices=status.notices + tuple(_row_notices(rows)),
        endpoints=tuple((state.name.lower(), counts[state.name.lower()]) for state in EndpointState),
        unenforceable=tuple(unenforceable(rows)),
        contradicting=sum(bool(row.contradictions) for row in rows),
    )


def _row_notices(rows: tuple[EndpointRow, ...]) -> Iterator[str]:
    unclassified = sum(row.settled_by == ClassifiedBy.FIRST_BOOT.value for row in rows)
    if unclassified:
        yield f"{unclassified} pods pass unclassified, because no managed namespace is known here yet"
    pending = [f"{row.namespace}/{row.pod or row.uid}" for row in rows if row.state == "pending"]
    if pending:
        yield f"pending, so that nothing leaves: {', '.join(pending[:10])}"
