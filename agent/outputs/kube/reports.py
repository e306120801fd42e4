"""What the agent writes to the API server: Events on pods, its node's Lease and taint, and, where elected, statuses.

One thread of its own. Nothing waits for it: denials are taken under a lock that is never held over a request, a
server that refuses or is away costs counts only. Without the rights for it (the role may leave them out) the agent
does all else; a refusal is logged once. A server that is starting refuses for moments what it allows: only what has
been refused for FORBIDDEN_AFTER_SECONDS is taken for a missing right, and asked for again after FORBIDDEN_SECONDS.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ApiError
from agent.log import event
from agent.model.flow import Denial
from agent.model.node_state import NodeState
from agent.model.policy import PolicyRef
from agent.model.report import EndpointRow
from agent.model.validated import ValidatedPolicy
from agent.not_understood import NotUnderstood
from agent.outputs.kube.events import EventSeries, EventWrite
from agent.outputs.kube.lease import micro_time, paced
from agent.outputs.kube.leases import Leases
from agent.outputs.kube.node_report import NodeReport
from agent.outputs.kube.own_node import Api, OwnNode
from agent.outputs.kube.policy_status import CONDITION_SECONDS, StatusWrites, node_report
from agent.outputs.output import Output
from agent.outputs.reasons import Reasons, deny_reasons
from agent.parse.bindings import BINDING_KIND
from agent.parse.object_kinds import BY_KIND
from agent.parse.schema import GROUP, VERSION

STEP_SECONDS = 1.0
FORBIDDEN_SECONDS, FORBIDDEN_AFTER_SECONDS = 300.0, 120.0
MOST_WAIT_SECONDS = 30.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
NAMESPACE = "dagwall-system"


class KubeReports(Output):
    """`denials` and `report` from the agent's threads; `step` is what the own thread does for ever."""

    def __init__(
        self, api: Api, node: str, *, namespace: str = "", clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._clock, self._wall = clock, wall
        self._api, self._node = api, OwnNode(api, node)
        self._events = EventSeries(node)
        self._reasons: tuple[object, Reasons] = (None, {})
        self._state: NodeState | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kube-reports", daemon=True)
        self._failures: Counter[str] = Counter()
        self._broken = NotUnderstood("kube_answer", clock)
        self._topics = {name: _Topic(name) for name in ("events", "node", "taint", "election", "status")}
        self._leases = Leases(api, self._node, namespace or own_namespace())
        self._statuses = StatusWrites()
        self._reports: tuple[float, dict[str, NodeReport]] = (float("-inf"), {})

    # -- from the agent's threads

    def denials(self, denials: list[Denial]) -> None:
        with self._lock:
            self._events.add(denials, self._deny_reasons(), self._clock())

    def report(self, state: NodeState) -> None:
        self._state = state
        with self._lock:
            for row in state.contradicting:
                self._events.add_contradiction(row, self._wall(), self._clock())

    def losses(self) -> dict[str, int]:
        """Denials that no Event counts, and requests that failed, by what they were for."""
        with self._lock:
            return dict(self._events.lost) | {f"kube_{name}_failed": n for name, n in self._failures.items()}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Writes what is due once more, and lets another node have the election."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)

    # -- the thread

    def _run(self) -> None:
        while not self._stop.wait(STEP_SECONDS):
            self.step(self._clock(), self._wall())
        self.step(self._clock(), self._wall())
        if self._leases.election.holds(self._clock()):
            self._try("election", self._clock(), self._leases.resign)

    def step(self, now: float, wall: float) -> None:
        """Whatever is due. `now` is monotonic, `wall` seconds since the epoch."""
        self._try("events", now, lambda: self._write_events(now))
        state = self._state
        if state is None or not state.cluster.complete:
            return
        judged, nodes = state.validated, len(state.cluster.nodes)
        problems = [text for topic, text in state.status.problems.items() if topic.concerns_policies]
        report = node_report(judged, state.cluster, selected(state.endpoints.values()), problems, state.refused)
        self._try("node", now, lambda: self._leases.report(report, now, wall, nodes))
        node = state.cluster.nodes.get(self._node.name)
        if not state.status.problems and node is not None and node.tainted:
            self._try("taint", now, self._node.untaint)
        self._try("election", now, lambda: self._leases.elect(now, wall, nodes))
        if self._leases.election.holds(now):
            self._try("status", now, lambda: self._write_statuses(judged, now, wall))

    def _write_events(self, now: float) -> bool:
        with self._lock:
            writes = self._events.due(now)
        for i, write in enumerate(writes):
            try:
                self._send_event(write)
            except ApiError as exc:
                if exc.status == 409:
                    with self._lock:
                        self._events.exists(write)
                    continue
                gone = _is_gone(exc, write)
                lacking = exc.status == 403 and self._topics["events"].is_forbidden(now)
                with self._lock:
                    self._events.failed(write, gone=gone or lacking)
                if not gone:
                    self._failures["events"] += len(writes) - i - 1  # the others of this step are not tried
                    raise
                self._failures["events"] += exc.status != 403
            else:
                with self._lock:
                    self._events.done(write)
        return bool(writes)

    def _send_event(self, write: EventWrite) -> None:
        path = f"/api/v1/namespaces/{write.namespace}/events"
        if write.new:
            self._api.send("POST", path, write.body)
        else:
            self._api.send("PATCH", f"{path}/{write.name}", write.body, kind="application/merge-patch+json")

    def _write_statuses(self, judged: Sequence[ValidatedPolicy], now: float, wall: float) -> bool:
        read_at, reports = self._reports
        if now >= read_at + paced(CONDITION_SECONDS, len(reports)):
            reports = self._leases.reports(wall)
            self._reports = (now, reports)
        failed, written = None, 0
        for ref, status in self._statuses.due(judged, reports, now, micro_time(wall)[:19] + "Z"):
            body = {
                "apiVersion": f"{GROUP}/{VERSION}", "kind": ref.kind,
                "metadata": {"name": ref.name} | ({"namespace": ref.namespace} if ref.namespace else {}),
                "status": status,
            }  # fmt: skip
            try:
                self._api.send(
                    "PATCH", status_path(ref), body, kind="application/apply-patch+yaml",
                    fieldManager="dagwall", force="true",
                )  # fmt: skip
            except ApiError as exc:
                if exc.status == 0:
                    raise  # nobody answers: the others need not be tried
                failed = exc if exc.status != 404 else failed  # deleted meanwhile
            else:
                written += 1
        if failed is not None and not written:
            raise failed
        self._failures["status"] += failed is not None
        return True

    def _try(self, name: str, now: float, work: Callable[[], bool]) -> None:
        """`work`: whether it has asked the server anything."""
        topic = self._topics[name]
        if now < topic.again_at:
            return
        try:
            asked = work()
        except ApiError as exc:
            self._failures[name] += 1
            topic.failed(exc, now)
        except Exception as exc:  # noqa: BLE001  other nodes' reports and the server's answers are strangers' objects
            self._failures[name] += 1
            self._broken.note(exc)
            topic.failed(ApiError(repr(exc)[:200], 0), now)
        else:
            if asked:
                topic.worked()

    def _deny_reasons(self) -> Reasons:
        """Made anew when the policies are others."""
        state = self._state
        if state is not None and self._reasons[0] is not state.cluster.policies:
            self._reasons = (state.cluster.policies, deny_reasons(state.cluster))
        return self._reasons[1]


def _is_gone(exc: ApiError, write: EventWrite) -> bool:
    """The server itself has the Event, or its namespace, no more, or takes none such. A proxy's 404 has no reason."""
    if exc.status == 404:
        return not write.new or (exc.why.kind, exc.why.name) == ("namespaces", write.namespace)
    return exc.status == 422 or "NamespaceTerminating" in exc.why.causes


def status_path(ref: PolicyRef) -> str:
    where = f"/namespaces/{ref.namespace}" if ref.namespace else ""
    return f"/apis/{GROUP}/{VERSION}{where}/{BY_KIND[ref.kind].plural}/{ref.name}/status"


def own_namespace() -> str:
    """The pod's; without one, the namespace that daemonset.yaml makes."""
    try:
        return NAMESPACE_FILE.read_text(encoding="ascii").strip() or NAMESPACE
    except OSError:
        return NAMESPACE


@dataclass(slots=True)
class _Topic:
    """When a kind of request may be tried again. Logged when it begins to fail, not each time."""

    name: str
    again_at: float = 0.0
    wait: float = STEP_SECONDS
    failing: bool = False
    forbidden_since: float | None = None

    def failed(self, exc: ApiError, now: float) -> None:
        if exc.status != 403:
            self.forbidden_since = None
        elif self.forbidden_since is None:
            self.forbidden_since = now
        if not self.failing:
            event(
                "kube.write_failed", level=logging.WARNING, topic=self.name, why=str(exc), forbidden=exc.status == 403
            )  # fmt: skip
        self.failing = True
        self.again_at = now + (FORBIDDEN_SECONDS if self.is_forbidden(now) else self.wait)
        self.wait = min(self.wait * 2, MOST_WAIT_SECONDS)

    def is_forbidden(self, now: float) -> bool:
        """Refused for so long that the right is lacking."""
        return self.forbidden_since is not None and now >= self.forbidden_since + FORBIDDEN_AFTER_SECONDS

    def worked(self) -> None:
        self.failing, self.again_at, self.wait, self.forbidden_since = False, 0.0, STEP_SECONDS, None


def selected(endpoints: Iterable[EndpointRow]) -> Counter[PolicyRef]:
    """How many pods of this node each policy selects, or each binding speaks about."""
    found: Counter[PolicyRef] = Counter()
    for row in endpoints:
        if row.state.has_rules:
            found.update(row.policies)
        if row.binding:
            found[PolicyRef("", BINDING_KIND, row.binding)] += 1
    return found
