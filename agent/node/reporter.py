"""Makes the writing thread's reports: from its parts, values only. The cost does not grow with the endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from typing_extensions import assert_never

from agent.abi.structs import ENDPOINT_SLOTS, IDENTITY_SLOTS
from agent.kernel.programs import HOOKS, OnCgroup, OnMap, Tail, Target
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
        states = [
            HookState(
                hook=program.name,
                root=where,
                attached=(*place, program.name) in attached,
                program_id=attached.get((*place, program.name), 0),
                instructions=self.instructions[program.name],
            )
            for program in HOOKS
            if program.name in self.instructions
            for place, where in self._places(program.target)
        ]
        return tuple(sorted(states, key=lambda state: state.root))

    def _places(self, target: Target) -> list[tuple[tuple[int, str], str]]:
        """Where a hook is to be: its cgroup's id and its map, and the name of that for people."""
        match target:
            case OnCgroup():
                return [((root.cgroup_id, ""), root.path) for root in self.folders.roots.values()]
            case OnMap(name):
                return [((0, name), f"map {name}")]
            case Tail():
                return []
            case _:
                assert_never(target)

    def _fill(self, identities: int) -> tuple[MapFill, ...]:
        """Maps that only the agent writes: it knows what is in them without reading."""
        want, endpoints = self.writer.want, self.writer.endpoints
        used = {
            "endpoints": len(endpoints.by_folder),
            "peers": len(want.peers),
            "hosts": len(want.hosts),
            "names": len(want.names),
            "servers": len(want.servers),
            "parts": len(want.parts),
            "rules": len(want.rules),
        }
        fill = [MapFill(name, count, self.maps[name].entries) for name, count in used.items()]
        fill.append(MapFill("identities", min(identities, IDENTITY_SLOTS), IDENTITY_SLOTS))
        return (*fill, MapFill("slots", len(endpoints.by_slot), ENDPOINT_SLOTS))

    def _outside(self) -> tuple[Outside, ...]:
        cluster = self.writer.cluster
        return tuple(Outside(cluster.pod_name(f.uid), f.path) for f in self.folders.outside.values())
