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

from immutables import Map

from agent import __version__
from agent.app.agent import Agent, resident_bytes
from agent.app.rows import (
    denial_rows,
    hook_states,
    identity_row,
    known_fill,
    not_covered,
    notices,
    peer_notices,
    read_fill,
    with_rows,
)
from agent.config import Config
from agent.errors import MapError
from agent.flows.join import Context
from agent.kernel.maps import KernelMap
from agent.model.cluster import Cluster
from agent.model.identity import Identity, IdentityNumber, PodUid
from agent.model.report import EndpointRow, Status, View
from agent.node.flow_drain import FlowDrain
from agent.node.news import News
from agent.node.socket_closer import SocketCloser

CACHE_SECONDS = 1.0
STALE_SECONDS = 30.0
"""A writing thread that has published nothing for so long hangs."""

Lost = Callable[[], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Published:
    """What the writing thread said last, and what readers need to complete it."""

    status: Status  # without what the rows say
    rows: Map[PodUid, EndpointRow]
    context: Context
    numbers: Map[Identity, IdentityNumber]
    drain: FlowDrain
    closer: SocketCloser
    maps: Mapping[str, KernelMap]
    at: float  # monotonic


class Reporter:
    """`lost`: what the outputs themselves lost, by reason."""

    def __init__(self, config: Config, lost: Lost) -> None:
        self._config, self._lost = config, lost
        self._published: _Published | None = None
        self._news = News()
        self._first: float | None = None
        self._cached: tuple[float, View] | None = None
        self._lock = threading.Lock()

    def publish(self, agent: Agent) -> None:
        """From the writing thread; its cost does not grow with the endpoints."""
        if self._first is None:
            self._first = process_age_seconds()
        told, numbers = agent.node.directory, agent.node.writer.endpoints.numbers.snapshot()
        status = self._status(agent, len(numbers))
        self._news.snapshot(agent.node.writer.cluster)
        self._news.readiness(status.problems)
        self._published = _Published(
            status, told.rows, agent.node.context, numbers, agent.drain, agent.node.closer,
            dict(agent.datapath.maps), time.monotonic(),
        )  # fmt: skip

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
                    self._cached = (now, self._cached[1] if self._cached is not None else View(published.status))
            totals = self._cached[1]
        rows = tuple(published.rows.values())
        known = totals.status
        status = replace(published.status, maps=known.maps, losses=known.losses, notices=known.notices)
        facts = tuple(published.context.by_slot.values())
        return replace(totals, endpoints=rows, facts=facts, status=with_rows(status, rows))

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
        return published.status.problems if published is not None else ("starting",)

    def lacking(self) -> tuple[str, ...]:
        """What is off or lacking: no reason not to be ready, and said where readiness is asked for."""
        published = self._published
        if published is None:
            return ()
        off = tuple(f"off on this node: {name}" for name, there in published.status.features if not there)
        return off + published.status.without_events

    def _complete(self, published: _Published) -> View:
        status, drain = published.status, published.drain
        raw = drain.denial_totals()
        losses = {loss.name.lower(): count for loss, count in drain.losses().items()}
        losses |= drain.unread() | published.closer.lost() | dict(self._lost())
        status = replace(
            status, losses=tuple(losses.items()), maps=status.maps + read_fill(published.maps, len(raw)),
            notices=status.notices + peer_notices(published.context.cluster),
        )  # fmt: skip
        users = Counter(facts.identity for facts in published.context.by_slot.values())
        identities = tuple(
            identity_row(identity, number, users[identity], drain) for identity, number in published.numbers.items()
        )
        return View(status, identities=identities, denials=denial_rows(raw, published.context.rules))

    def _status(self, agent: Agent, identities: int) -> Status:
        node, config = agent.node, self._config
        cluster = node.writer.cluster
        hooks = hook_states(agent)
        problems = list(node.health.problems.values())
        problems += [f"{h.hook} is not attached to {h.root}" for h in hooks if not h.attached]
        return Status(
            version=__version__,
            node=config.node,
            ready=not problems,
            problems=tuple(problems),
            notices=tuple(notices(node)),
            revision=node.source.store.snapshot.revision,
            programmed=cluster.revision,
            complete=cluster.complete,
            posture="audit" if cluster.settings.audit_everything else "enforce",
            on_agent_loss=config.on_agent_loss.value,
            kernel=platform.release(),
            bcc=agent.loaded.bcc,
            features=tuple(agent.datapath.features.as_dict().items()),
            hooks=hooks,
            maps=known_fill(node, agent.datapath.maps, identities),
            endpoints=(),
            policies=len(cluster.policies),
            network_policies=len(cluster.network_policies) if cluster.settings.network_policy else 0,
            bindings=len(cluster.bindings),
            losses=(),
            object_errors=tuple(map(str, (*node.source.problems, *node.writer.intake.errors()))),
            unenforceable=(),
            contradicting=0,
            not_covered=not_covered(agent.datapath.features),
            pins_were_gone=node.pins_were_gone,
            outside=tuple(f"{cluster.pod_name(f.uid)}: {f.path}" for f in node.folders.outside.values()),
            started=time.time() - process_age_seconds(),
            enforcing_after_seconds=round(self._first or 0.0, 3),
            resident_bytes=resident_bytes(),
            pins=str(config.pins),
            repaired=node.health.repaired,
            stale_seconds=node.source.stale_seconds(),
            without_events=node.without_events(),
        )


def process_age_seconds() -> float:
    """Time since this process was started (proc(5), stat, field 22; ticks since boot)."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
