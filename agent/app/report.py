"""What the agent says about itself: made from its parts, published as one immutable View.

`publish` runs in the writing thread and reads what that thread owns. `view` runs in any thread and adds what must be
read from kernel maps: totals, denials, losses, fill of the maps; at most once in CACHE_SECONDS.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent import __version__
from agent.abi.structs import ENDPOINT_SLOTS, EPOCH, IDENTITY_SLOTS, SLOT
from agent.app.agent import Agent, resident_bytes
from agent.app.drain import Drain
from agent.app.node import Node
from agent.config import Config
from agent.errors import MapError
from agent.flows.decode import RawDenials
from agent.flows.join import Context
from agent.kernel.maps import KernelMap
from agent.kernel.programs import HOOKS
from agent.model.cluster import Cluster
from agent.model.identity import FIRST_IDENTITY, Claim, Identity, IdentityNumber, Kind
from agent.model.policy import RuleRef
from agent.model.report import DenialRow, EndpointRow, HookState, IdentityRow, MapFill, Status, View
from agent.model.verdict import EndpointState
from agent.model.want import RuleId
from agent.outputs.words import reason_name
from agent.sync.endpoints import Endpoint

CACHE_SECONDS = 1.0
STALE_SECONDS = 30.0
"""A writing thread that has published nothing for so long hangs."""

_NO_CLAIM = Claim(Identity("", "", "", "", "", Kind.OTHER), ())
_ESCAPES = {
    "NET_RAW": "AF_PACKET frames skip cgroup hooks and are not covered in this build; drop the capability",
    "privileged": "it can load and remove programs, and leave its cgroup",
}

Lost = Callable[[], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Published:
    """What the writing thread said last, and what readers need to complete it."""

    view: View
    context: Context
    numbers: Mapping[Identity, IdentityNumber]
    users: Mapping[Identity, int]
    drain: Drain
    maps: Mapping[str, KernelMap]
    at: float  # monotonic


class Reporter:
    """`lost`: what the outputs themselves lost, by reason."""

    def __init__(self, config: Config, lost: Lost) -> None:
        self._config, self._lost = config, lost
        self._published: _Published | None = None
        self._first: float | None = None
        self._cached: tuple[float, View] | None = None
        self._lock = threading.Lock()

    def publish(self, agent: Agent) -> None:
        """From the writing thread; costs well under a millisecond with a hundred endpoints."""
        node, before = agent.node, self._published
        if self._first is None:
            self._first = process_age_seconds()
        if before is not None and before.context is node.context:
            rows, numbers, users = before.view.endpoints, before.numbers, before.users
        else:
            rows = tuple(_endpoint(node, each) for each in node.writer.endpoints.by_uid.values() if each.folders)
            numbers = node.writer.endpoints.numbers.snapshot()
            users = Counter(e.assignment.identity for e in node.writer.endpoints.by_uid.values() if e.assignment)
        status = self._status(agent, rows, len(numbers))
        view = View(status=status, endpoints=rows, facts=tuple(node.context.by_slot.values()))
        self._published = _Published(
            view, node.context, numbers, users, agent.drain, dict(agent.datapath.maps), time.monotonic()
        )

    def view(self) -> View | None:
        """The whole of it; None before the first `publish`. After the agent's end: what was known last."""
        published = self._published
        if published is None:
            return None
        with self._lock:
            now = time.monotonic()
            if self._cached is None or now - self._cached[0] > CACHE_SECONDS:
                try:
                    self._cached = (now, self._complete(published))
                except (MapError, OSError):  # closed by the agent's end: what was read last stays
                    self._cached = (now, self._cached[1] if self._cached is not None else published.view)
            totals = self._cached[1]
        return replace(
            totals, endpoints=published.view.endpoints, facts=published.view.facts,
            status=replace(published.view.status, maps=totals.status.maps, losses=totals.status.losses),
        )  # fmt: skip

    def cluster(self) -> Cluster:
        """The snapshot that the maps say."""
        return self._published.context.cluster if self._published is not None else Cluster()

    def dead(self) -> tuple[str, ...]:
        """Why the process should be started again (liveness). One that has not begun yet is not dead."""
        published = self._published
        silent = time.monotonic() - published.at if published is not None else 0.0
        return (f"the writing thread has said nothing for {silent:.0f} s",) if silent > STALE_SECONDS else ()

    def unready(self) -> tuple[str, ...]:
        published = self._published
        return published.view.status.problems if published is not None else ("starting",)

    def _complete(self, published: _Published) -> View:
        view, drain = published.view, published.drain
        raw = drain.denial_totals()
        losses = {loss.name.lower(): count for loss, count in drain.losses().items()} | dict(self._lost())
        status = replace(
            view.status,
            losses=tuple(losses.items()),
            maps=view.status.maps + _read_fill(published, len(raw)),
        )
        identities = tuple(
            _identity(identity, number, published.users.get(identity, 0), drain)
            for identity, number in published.numbers.items()
        )
        return replace(view, status=status, identities=identities, denials=_denials(raw, published.context.rules))

    def _status(self, agent: Agent, rows: tuple[EndpointRow, ...], identities: int) -> Status:
        node, config = agent.node, self._config
        cluster = node.writer.cluster
        hooks = _hooks(agent)
        problems = list(node.problems.values())
        problems += [f"{h.hook} is not attached to {h.root}" for h in hooks if not h.attached]
        counts = Counter(row.state for row in rows)
        return Status(
            version=__version__,
            node=config.node,
            ready=not problems,
            problems=tuple(problems),
            notices=tuple(_notices(node, rows)),
            revision=node.source.store.snapshot.revision,
            programmed=cluster.revision,
            complete=cluster.complete,
            posture="audit" if cluster.settings.audit_everything else "enforce",
            on_agent_loss=config.on_agent_loss.value,
            kernel=platform.release(),
            bcc=agent.loaded.bcc,
            features=tuple(agent.datapath.features.as_dict().items()),
            hooks=hooks,
            maps=_known_fill(node, agent.datapath.maps, identities),
            endpoints=tuple((state.name.lower(), counts[state.name.lower()]) for state in EndpointState),
            policies=len(cluster.policies),
            losses=(),
            object_errors=tuple(str(problem) for problem in node.source.problems),
            unenforceable=tuple(_unenforceable(rows)),
            outside=tuple(f"pod {f.uid}: {f.path}" for f in node.folders.outside.values()),
            started=time.time() - process_age_seconds(),
            enforcing_after_seconds=round(self._first or 0.0, 3),
            resident_bytes=resident_bytes(),
        )


def process_age_seconds() -> float:
    """Time since this process was started (proc(5), stat, field 22; ticks since boot)."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _endpoint(node: Node, endpoint: Endpoint) -> EndpointRow:
    pod, assignment = node.writer.cluster.pods.get(endpoint.uid), endpoint.assignment
    claim, settled = pod.claim if pod is not None else _NO_CLAIM, node.settled.get(endpoint.uid)
    known = assignment is not None and assignment.state is not EndpointState.UNMANAGED
    namespace = settled.namespace if settled is not None else ""
    return EndpointRow(
        uid=endpoint.uid,
        namespace=pod.namespace if pod is not None else namespace,
        pod=pod.name if pod is not None else settled.name if settled is not None else "",
        state=(assignment.state if assignment is not None else EndpointState.PENDING).name.lower(),
        identity=str(assignment.identity) if assignment is not None and known else "",
        number=endpoint.number or 0,
        ruleset=assignment.ruleset if assignment is not None else 0,
        slot=endpoint.slot,
        cgroup_ids=tuple(sorted(endpoint.folders)),
        settled_by=settled.by.value if settled is not None and pod is None else "",
        escapes=pod.escapes if pod is not None else (),
        contradictions=claim.contradictions,
        dag_id=claim.identity.dag_id,
        task_id=claim.identity.task_id,
        run_id=claim.run_id,
        try_number=claim.try_number,
        map_index=claim.map_index,
    )


def _identity(identity: Identity, number: IdentityNumber, endpoints: int, drain: Drain) -> IdentityRow:
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


def _denials(raw: list[RawDenials], rules: Mapping[RuleId, RuleRef]) -> tuple[DenialRow, ...]:
    """Rows of slots that had the same identity are one."""
    packets: Counter[tuple[int, str, str, str, str]] = Counter()
    sizes: Counter[tuple[int, str, str, str, str]] = Counter()
    for row in raw:
        rule = str(rules.get(RuleId(row.rule)) or "")
        key = (row.identity, reason_name(row.reason), rule, row.direction.name.lower(), row.verdict.name.lower())
        packets[key] += row.packets
        sizes[key] += row.bytes
    return tuple(DenialRow(*key, packets=count, bytes=sizes[key]) for key, count in packets.items())


def _hooks(agent: Agent) -> tuple[HookState, ...]:
    """Every hook that should be on every root, with what the kernel says."""
    attached = {(a.cgroup_id, a.hook): a.program_id for a in agent.datapath.attached()}
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


def _known_fill(node: Node, maps: Mapping[str, KernelMap], identities: int) -> tuple[MapFill, ...]:
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


def _read_fill(published: _Published, denials: int) -> tuple[MapFill, ...]:
    """Maps that the kernel fills. `flows` by what each slot inserted and what was evicted: no walk over the flows."""
    maps = published.maps
    inserted = sum(int(SLOT.unpack(value)["inserted"]) for _, value in maps["slots"].items())
    evicted = sum(int(EPOCH.unpack(value)["evicted"]) for _, value in maps["epochs"].items())
    flows = min(max(0, inserted - evicted), maps["flows"].entries)
    used = {"flows": flows, "denials": denials, "pending": len(maps["pending"].keys())}
    return tuple(MapFill(name, count, maps[name].entries) for name, count in used.items())


def _unenforceable(rows: tuple[EndpointRow, ...]) -> list[str]:
    """L8: the agent must never let a pod look held that is not."""
    return [
        f"{row.namespace}/{row.pod}: {escape}: {_ESCAPES.get(escape, 'it can reach the node outside of its cgroup')}"
        for row in rows
        if row.state in ("managed", "quarantined")
        for escape in row.escapes
    ]


def _notices(node: Node, rows: tuple[EndpointRow, ...]) -> list[str]:
    cluster = node.writer.cluster
    out = []
    if not cluster.complete:
        out.append("the sources have not listed everything yet: nothing is taken away")
    unclassified = [uid for uid, settled in node.settled.items() if settled.unclassified]
    if unclassified:
        out.append(f"{len(unclassified)} pods pass unclassified, because no managed namespace is known here yet (L3)")
    if cluster.settings.audit_everything:
        out.append("--posture audit: every policy only reports what it would deny")
    if not any(namespace.managed for namespace in cluster.namespaces.values()):
        out.append("no namespace is managed: label one dagwall.io/managed=true, or use --managed-namespace")
    pending = [f"{row.namespace}/{row.pod or row.uid}" for row in rows if row.state == "pending"]
    if pending:
        out.append(f"pending, so that nothing leaves: {', '.join(pending[:10])}")
    return out
