"""Prometheus metrics: made at scrape time from what the agent says about itself, and from task series.

What resets: `dagwall_task_*` count from the start of this agent; flows that were live then are counted from their
beginning once more, so a restart shows as a counter reset that is followed by the live flows' totals. All that comes
from the kernel's own counters (`dagwall_identity_*`, `dagwall_task_denied_total`, the kernel's losses) goes on across
restarts and upgrades, until `dagwall detach`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.model.flow import FailedLookup, Flow, Outcome
from agent.model.node_state import NodeState, View
from agent.model.report import IdentityRow, Totals
from agent.outputs.outcome_series import OutcomeSeries
from agent.outputs.output import Output
from agent.outputs.series import LABELS, OVERFLOW, Key, LookupSeries, Room, TaskSeries
from agent.outputs.words import reason_name

_TASK = ("namespace", "dag_id", "task_id", "service_account")
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics(Collector, Output):
    """Registers itself in `registry`. `view` answers None while the agent starts."""

    def __init__(self, registry: CollectorRegistry, view: Callable[[], View | None], *, series: int) -> None:
        self._view, self._limit = view, series
        self.tasks = TaskSeries(series)
        self._denials, self._lock = Room(series), threading.Lock()
        self._lookups = LookupSeries(series)
        self._outcomes = OutcomeSeries(series)
        ProcessCollector(registry=registry)  # where there is /proc
        self._policy_latency = Histogram(
            "dagwall_policy_latency_seconds", "Time from reading a change to the last map write that enforces it.",
            registry=registry, buckets=_LATENCY,
        )  # fmt: skip
        self._pending = Histogram(
            "dagwall_pending_seconds", "Time for which an endpoint was pending: nothing of it was let out.",
            registry=registry, buckets=_LATENCY,
        )  # fmt: skip
        registry.register(self)

    def flows(self, flows: list[Flow]) -> None:
        """From the draining thread."""
        self.tasks.add(flows)

    def lookups(self, lookups: list[FailedLookup]) -> None:
        """From the draining thread."""
        self._lookups.add(lookups)

    def outcomes(self, outcomes: list[Outcome]) -> None:
        """From the draining thread."""
        self._outcomes.add(outcomes)

    def report(self, state: NodeState) -> None:
        """From the writing thread."""
        for seconds in state.policy_seconds:
            self._policy_latency.observe(seconds)
        for seconds in state.pending_seconds:
            self._pending.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        if view is not None:
            found = (facts.identity for facts in view.state.by_slot.values())
            here = {(i.namespace, i.dag_id, i.task_id, i.service_account) for i in found}
            for series in (self.tasks, self._lookups, self._outcomes):
                series.forget(here)
        yield from self._task_families()
        if view is not None:
            yield from self._identity_families(view.totals.identities)
            yield self._denied(view.totals)
            yield self._failed_lookups()
            yield from self._outcomes.families()
            yield from _agent_families(view)

    def _task_families(self) -> Iterator[Metric]:
        sizes = CounterMetricFamily(
            "dagwall_task_bytes", "Bytes of a task's flows, IP headers included; direction says who opened.",
            labels=[*LABELS, "traffic"],
        )  # fmt: skip
        packets = CounterMetricFamily(
            "dagwall_task_packets", "Packets of a task's flows; direction says who opened.",
            labels=[*LABELS, "traffic"],
        )  # fmt: skip
        connections = CounterMetricFamily(
            "dagwall_task_connections", "Connections, and for datagrams flows, of a task; direction says who opened.",
            labels=LABELS,
        )  # fmt: skip
        for key, totals in self.tasks.snapshot().items():
            sizes.add_metric([*key, "sent"], totals.sent_bytes)
            sizes.add_metric([*key, "received"], totals.received_bytes)
            packets.add_metric([*key, "sent"], totals.sent_packets)
            packets.add_metric([*key, "received"], totals.received_packets)
            connections.add_metric(key, totals.connections)
        yield from (sizes, packets, connections)
        yield CounterMetricFamily(
            "dagwall_metric_series_overflow",
            f"Reports of flows that went into the {OVERFLOW} series, because {self._limit} task series are there.",
            value=self.tasks.overflowed,
        )

    def _identity_families(self, rows: Iterable[IdentityRow]) -> Iterator[Metric]:
        """Identities that differ only in what is no label here are one series."""
        totals: dict[tuple[str, ...], Counter[str]] = {}
        for row in rows:
            found = totals.setdefault((row.namespace, row.dag_id, row.task_id, row.service_account), Counter())
            found["sent_bytes"] += row.sent_bytes
            found["received_bytes"] += row.received_bytes
            found["sent_packets"] += row.sent_packets
            found["received_packets"] += row.received_packets
        for what in ("bytes", "packets"):
            family = CounterMetricFamily(
                f"dagwall_identity_{what}",
                f"Exact {what} of an identity since the programs were first loaded, with those that no flow holds.",
                labels=[*_TASK, "traffic"],
            )
            for key, sums in totals.items():
                family.add_metric([*key, "sent"], sums[f"sent_{what}"])
                family.add_metric([*key, "received"], sums[f"received_{what}"])
            yield family

    def _denied(self, totals: Totals) -> Metric:
        """Exact: from the kernel's `denials`, not from sampled events (R2)."""
        names = {
            row.number: (row.namespace, row.dag_id, row.task_id, row.service_account) for row in totals.identities
        }
        packets: Counter[Key] = Counter()
        for row in totals.denials:
            who = names.get(row.identity, ("", "", "", ""))
            series: Key = (*who, reason_name(row.reason), row.direction.name.lower(), row.verdict.name.lower())
            packets[series] += row.packets
        shown: Counter[Key] = Counter()
        with self._lock:
            self._denials.keep(packets.keys())
            for key, count in packets.items():
                shown[key if self._denials.take(key) else (*[OVERFLOW] * 4, *key[4:])] += count
        family = CounterMetricFamily(
            "dagwall_task_denied",
            "Packets and calls of a task that were denied (verdict deny), or would be (verdict audit), by reason.",
            labels=[*_TASK, "reason", "direction", "verdict"],
        )
        for key, value in shown.items():
            family.add_metric(key, value)
        return family

    def _failed_lookups(self) -> Metric:
        family = CounterMetricFamily(
            "dagwall_task_dns_failures",
            "Names that a task asked a DNS server for in vain, by what it answered, since this agent started.",
            labels=[*_TASK, "rcode"],
        )
        for key, count in self._lookups.snapshot().items():
            family.add_metric(key, count)
        return family


def _agent_families(view: View) -> Iterator[Metric]:
    state, totals = view.state, view.totals
    facts, status, cluster = state.facts, state.status, state.cluster
    yield _gauge("dagwall_ready", "1 when everything known is enforced and no problem is open.", status.ready)
    yield _gauge(
        "dagwall_pins_were_gone", "1 when nothing was enforced before this agent's start, though one had been here.",
        facts.pins_were_gone,
    )  # fmt: skip
    yield _gauges(
        "dagwall_endpoints",
        "Endpoints of this node by state.",
        ["state"],
        [(each.name.lower(), count) for each, count in state.by_state().items()],
    )
    fill = status.fill + totals.fill
    yield _gauges("dagwall_map_entries", "Entries used in a kernel map.", ["map"], [(m.name, m.used) for m in fill])
    yield _gauges(
        "dagwall_map_pressure", "Share of a kernel map's entries that is used, 0 to 1.", ["map"],
        [(m.name, m.used / m.entries if m.entries else 0) for m in fill],
    )  # fmt: skip
    losses = CounterMetricFamily(
        "dagwall_losses",
        "Events, counts and log lines that were lost or left uncounted, by reason.",
        labels=["reason"],
    )
    for reason, count in totals.losses.items():
        losses.add_metric([reason], count)
    yield losses
    yield CounterMetricFamily(
        "dagwall_repaired_entries", "Entries of kernel maps that were not as written, and were written again.",
        value=status.repaired,
    )  # fmt: skip
    features = [(name, int(there)) for name, there in facts.features.items()]
    yield _gauges("dagwall_feature", "1 where this kernel has the feature.", ["feature"], features)
    hooks = GaugeMetricFamily(
        "dagwall_hook_attached", "1 where our program is on the hook of this root cgroup.", labels=["hook", "root"]
    )
    for hook in status.hooks:
        hooks.add_metric([hook.hook, hook.root], hook.attached)
    yield hooks
    yield _gauge("dagwall_policy_revision", "Revision of the newest snapshot of the cluster.", status.revision)
    yield _gauge("dagwall_policy_programmed_revision", "Revision that the kernel's maps say.", cluster.revision)
    yield _gauge("dagwall_policies", "Dagwall's policies in force.", len(cluster.policies))
    natives = len(cluster.network_policies) if cluster.settings.network_policy else 0
    yield _gauge("dagwall_network_policies", "Kubernetes' own NetworkPolicies in force.", natives)
    yield _gauge("dagwall_identity_bindings", "TaskIdentityBindings in force.", len(cluster.bindings))
    yield _gauge(
        "dagwall_contradicting_pods", "Pods whose claims contradict each other or a TaskIdentityBinding.",
        state.contradicted(),
    )  # fmt: skip
    yield _gauge("dagwall_invalid_objects", "Objects that are invalid now.", len(status.object_errors))
    reasons = Counter(each.escape.way for each in state.unenforceable())
    yield _gauges(
        "dagwall_unenforceable_pods", "Managed pods that the kernel cannot hold, by reason.", ["reason"],
        reasons.items(),
    )  # fmt: skip
    yield _gauge(
        "dagwall_outside_containers", "Containers outside of the pods' roots: no program sees them.",
        len(status.outside),
    )  # fmt: skip
    yield _gauge(
        "dagwall_source_stale_seconds", "Seconds without an answer of the API server; 0 when it answers.",
        status.stale_seconds,
    )  # fmt: skip
    yield _gauge(
        "dagwall_folder_events_lacking", "Kinds of folders, pods' and manifests', of which some have no events.",
        len(status.without_events),
    )  # fmt: skip
    yield _gauge("dagwall_resident_bytes", "Memory of the agent's process in bytes.", totals.resident_bytes)
    yield _gauge(
        "dagwall_start_to_enforcing_seconds", "Time from the start of the process to the last attachment.",
        status.enforcing_after_seconds,
    )  # fmt: skip
    yield _gauge("dagwall_start_time_seconds", "Start of the agent in seconds since the epoch.", facts.started)
    build = GaugeMetricFamily("dagwall_build_info", "Versions; always 1.", labels=["version", "bcc", "kernel"])
    build.add_metric([facts.version, facts.bcc, facts.kernel], 1)
    yield build


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _gauges(name: str, text: str, labels: list[str], values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values:
        family.add_metric([label], value)
    return family
