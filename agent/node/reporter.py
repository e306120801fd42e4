"""Makes the writing thread's reports: from its parts, values only. The cost does not grow with the endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.abi.structs import ENDPOINT_SLOTS, IDENTITY_SLOTS
from agent.kernel.programs import HOOKS, OnCgroup, OnMap, Program
from agent.model.node_state import AgentFacts, NodeState, Outside, Status
from agent.model.report import EndpointRow, HookState, MapFill
from agent.node.directory import EndpointDirectory
from agent.node.folders import Folders
from agent.node.health import Health
from agent.node.kernel import Maps
from agent.sources.update import Source, Update
from agent.sync.writer import Writer


@dataclass(slots=True)
class Samples:
    """What came up since the last report."""

    contradicting: list[EndpointRow] = field(default_factory=list)
    policy_seconds: list[float] = field(default_factory=list)
    pending_seconds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Reporter:
    """Owned by the writing thread; its fields are the thread's parts."""

    facts: AgentFacts
    instructions: Mapping[str, int]  # by program
    maps: Maps
    source: Source
    writer: Writer
    health: Health
    folders: Folders
    directory: EndpointDirectory
    clock: Callable[[], float]  # monotonic
    samples: Samples = field(default_factory=Samples)

    def pending(self, seconds: float) -> None:
        """So long an endpoint was pending."""
        self.samples.pending_seconds.append(seconds)

    def report(
        self, newest: Update, *, without_events: tuple[str, ...], forgotten: tuple[str, ...],
        enforcing_after_seconds: float,
    ) -> NodeState:  # fmt: skip
        """`newest`: what the source has handed over last, taken or refused. What came up is in one report only."""
        samples, self.samples = self.samples, Samples()
        numbers = self.writer.endpoints.numbers.snapshot()
        return NodeState(
            facts=self.facts,
            status=Status(
                problems=dict(self.health.problems),
                revision=newest.snapshot.revision,
                hooks=self._hooks(),
                fill=self._fill(len(numbers)),
                object_errors=tuple(map(str, (*newest.problems, *self.writer.intake.errors()))),
                outside=self._outside(),
                repaired=self.health.repaired,
                stale_seconds=self.source.stale_seconds(),
                without_events=without_events,
                forgotten=forgotten,
                enforcing_after_seconds=enforcing_after_seconds,
            ),
            cluster=self.writer.cluster,
            endpoints=self.directory.rows,
            by_slot=self.directory.by_slot,
            rules=self.writer.compiler.rule_refs,
            numbers=numbers,
            validated=self.source.judgements(),
            refused=self.writer.intake.admission.sentences(),
            contradicting=tuple(samples.contradicting),
            policy_seconds=tuple(samples.policy_seconds),
            pending_seconds=tuple(samples.pending_seconds),
            at=self.clock(),
        )

    def _hooks(self) -> tuple[HookState, ...]:
        """Every hook that should be on every root or on a map, with what the kernel says."""
        attached = {(a.cgroup_id, a.on_map, a.hook): a.program_id for a in self.health.hooks.attached() if a.ours}
        roots = self.folders.roots.values()
        places = [(root.cgroup_id, "", root.path, each) for root in roots for each in self._known(OnCgroup)]
        places += [(0, each.target.name, f"map {each.target.name}", each) for each in self._known(OnMap)]
        return tuple(
            HookState(
                hook=program.name,
                root=where,
                attached=(cgroup_id, on_map, program.name) in attached,
                program_id=attached.get((cgroup_id, on_map, program.name), 0),
                instructions=self.instructions[program.name],
            )
            for cgroup_id, on_map, where, program in places
        )

    def _known(self, target: type[OnCgroup] | type[OnMap]) -> list[Program]:
        """Hooks of such targets that this generation has a program for."""
        return [each for each in HOOKS if isinstance(each.target, target) and each.name in self.instructions]

    def _fill(self, identities: int) -> tuple[MapFill, ...]:
        """Maps that only the agent writes: it knows what is in them without reading."""
        want, endpoints = self.writer.want, self.writer.endpoints
        used = {
            "endpoints": len(endpoints.by_folder),
            "peers": len(want.peers),
            "hosts": len(want.hosts),
            "rules": len(want.rules),
        }
        fill = [MapFill(name, count, self.maps[name].entries) for name, count in used.items()]
        fill.append(MapFill("identities", min(identities, IDENTITY_SLOTS), IDENTITY_SLOTS))
        return (*fill, MapFill("slots", len(endpoints.by_slot), ENDPOINT_SLOTS))

    def _outside(self) -> tuple[Outside, ...]:
        cluster = self.writer.cluster
        return tuple(Outside(cluster.pod_name(f.uid), f.path) for f in self.folders.outside.values())
