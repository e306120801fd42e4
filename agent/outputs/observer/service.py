"""What the services answer: bytes in, bytes out, without gRPC's own words."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from agent import __version__
from agent.model.cluster import Cluster
from agent.model.node_state import NodeState
from agent.outputs.hubble import documents_of
from agent.outputs.observer.asked import Asked, asked, chosen, masked
from agent.outputs.observer.messages import Object, pack, unpack
from agent.outputs.observer.peers import Peer, Serving, changes, node_name, peers_of
from agent.outputs.observer.places import Turns
from agent.outputs.observer.ring import Entry, Ring

Alive = Callable[[], bool]
SERVICES = ("", "hubble.server.Observer", "observer.Observer", "peer.Peer")
"""Whose health is asked for: the second is what `hubble status` asks."""
_BATCH = 256
_LOOK_SECONDS = 1.0
_LATE_SECONDS = 10.0
"""After `until` a follower is kept so long for flows that are read from the kernel later."""


class Service:
    """Any thread. `lost`: by reason, what followers did not get and what could not be written."""

    def __init__(self, ring: Ring, serving: Serving, clock: Callable[[], float] = time.time) -> None:
        self._ring, self._serving, self._clock = ring, serving, clock
        self._began = time.monotonic()
        self._cluster = Cluster()
        self._peers = peers_of(self._cluster, serving)
        self._changed = threading.Condition()
        self._turns = Turns()
        self.lost: Counter[str] = Counter(hubble_followers=0, hubble_encode=0)

    def report(self, state: NodeState) -> None:
        """From the writing thread."""
        if state.cluster.nodes is not self._cluster.nodes or state.cluster.settings is not self._cluster.settings:
            peers = peers_of(state.cluster, self._serving)
            with self._changed:
                self._peers = peers
                self._changed.notify_all()
        self._cluster = state.cluster

    def close(self) -> None:
        """Streams come to their end."""
        self._ring.close()
        with self._changed:
            self._changed.notify_all()

    def get_flows(self, request: bytes, alive: Alive) -> Iterator[bytes]:
        """Raises BadMessage and BadFilter before the first answer, and Gone."""
        wanted, pace = asked(request), self._turns.pacer(alive)
        if wanted.follow and not wanted.number and wanted.since is None:
            kept, place = list[Entry](), self._ring.seen
        else:
            kept, place = self._ring.last()
        for line in chosen(kept, wanted, self._document, pace):
            yield masked(line, wanted.fields)
        if wanted.follow:
            yield from self._followed(wanted, place, alive, pace)

    def _followed(self, wanted: Asked, place: int, alive: Alive, pace: Callable[[], None]) -> Iterator[bytes]:
        while alive() and self._ring.open and not self._over(wanted):
            taken = self._ring.after(place, _BATCH, _LOOK_SECONDS)
            place = taken.place
            if taken.lost:
                self.lost["hubble_followers"] += taken.lost
                yield self._lost(taken.lost)
            for entry in taken.entries:
                pace()
                line = self._document(entry) if wanted.in_time(entry[0].time) else None
                if line is not None and wanted.passes(line["flow"]):
                    yield masked(line, wanted.fields)

    def _over(self, wanted: Asked) -> bool:
        return wanted.until is not None and self._clock() > wanted.until + _LATE_SECONDS

    def _document(self, entry: Entry) -> Object | None:
        seen, part = entry
        try:
            return documents_of(seen, self._serving.node, __version__)[part]
        except (ValueError, OverflowError):  # a clock before year 1, and the like
            self.lost["hubble_encode"] += 1
            return None

    def _lost(self, count: int) -> bytes:
        lost = {"source": "HUBBLE_RING_BUFFER", "num_events_lost": count}
        return pack("observer.GetFlowsResponse", {"lost_events": lost, "node_name": self._own, "time": self._now()})

    def no_events(self, alive: Alive) -> Iterator[bytes]:
        """GetAgentEvents and GetDebugEvents: what Hubble gives where there are none."""
        yield from ()
        while alive() and self._ring.open:
            with self._changed:
                self._changed.wait(_LOOK_SECONDS)

    def notify(self, alive: Alive) -> Iterator[bytes]:
        known: dict[str, Peer] = {}
        while alive() and self._ring.open:
            with self._changed:
                if self._peers == known:
                    self._changed.wait(_LOOK_SECONDS)
                now = self._peers
            for change in changes(known, now):
                yield pack("peer.ChangeNotification", change)
            known = now

    def server_status(self) -> bytes:
        return pack(
            "observer.ServerStatusResponse", {**self._counts(), "version": self._version, "flows_rate": self._rate()}
        )

    def get_nodes(self) -> bytes:
        """This node; hubble-relay has all of them."""
        own = self._peers.get(self._own, Peer(self._own, ""))
        tls = {"enabled": True, "server_name": own.server_name} if own.server_name else {}
        node = {"name": own.name, "version": self._version, "address": own.address, "state": "NODE_CONNECTED"}
        return pack("observer.GetNodesResponse", {"nodes": [{**node, "tls": tls, **self._counts()}]})

    def get_namespaces(self) -> bytes:
        """Those that are managed, and those of the flows that are kept."""
        entries, _ = self._ring.last()
        found = {name for name, namespace in self._cluster.namespaces.items() if namespace.managed}
        for seen, _ in entries:
            found.add(seen.endpoint.namespace)
            if seen.peer.identity is not None:
                found.add(seen.peer.identity.namespace)
        cluster = self._cluster.settings.cluster
        rows = [{"cluster": cluster, "namespace": name} for name in sorted(found - {""})]
        return pack("observer.GetNamespacesResponse", {"namespaces": rows})

    def health(self, request: bytes) -> bytes | None:
        """None: no such service."""
        asked_for = unpack("grpc.health.v1.HealthCheckRequest", request).get("service", "")
        return pack("grpc.health.v1.HealthCheckResponse", {"status": "SERVING"}) if asked_for in SERVICES else None

    @property
    def _own(self) -> str:
        return node_name(self._cluster, self._serving.node)

    @property
    def _version(self) -> str:
        return f"dagwall v{__version__}"

    def _counts(self) -> dict[str, Any]:
        uptime = time.monotonic() - self._began
        counts = {"num_flows": len(self._ring), "max_flows": self._ring.kept, "seen_flows": self._ring.seen}
        return {**counts, "uptime_ns": int(uptime * 1e9)}

    def _rate(self) -> float:
        """A second, of the last minute, or of as much of it as is kept."""
        entries, _ = self._ring.last()
        now = self._clock()
        times = [seen.time for seen, _ in entries if seen.time >= now - 60]
        whole = len(times) == len(entries) == self._ring.kept
        return len(times) / max(1.0, now - min(times) if whole else 60.0) if times else 0.0

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), timezone.utc).isoformat().replace("+00:00", "Z")
