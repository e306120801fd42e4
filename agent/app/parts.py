"""What the threads of a node are made of, from what is at hand when the programs are loaded."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import __version__
from agent.compiler.admission import Admission
from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.service_shares import ServiceShares
from agent.config import Config
from agent.flows.account import Accountant
from agent.kernel.datapath import Datapath
from agent.kernel.loader import Loaded
from agent.kernel.probe import Jiffies
from agent.log import event
from agent.model.cluster import Cluster
from agent.model.node_state import AgentFacts
from agent.model.want import Want
from agent.node.classifier import Classifier
from agent.node.connections import Connections
from agent.node.directory import HELD_BY_LSM, EndpointDirectory
from agent.node.flow_drain import FlowDrain
from agent.node.folders import Folders
from agent.node.folding import Folding
from agent.node.health import Health
from agent.node.inbox import Inbox
from agent.node.keeper import Keeper
from agent.node.parts import Parts
from agent.node.process import process_age_seconds
from agent.node.reporter import Reporter
from agent.node.socket_closer import SocketCloser
from agent.node.state import State, StateFolder, boot_id
from agent.node.totals import TotalsReader, clear_identities, unknown_numbers
from agent.node.unknown import UnknownCgroups
from agent.outputs.notices import LINKS_WERE_LOST, PINS_WERE_GONE
from agent.outputs.output import Output
from agent.sources.cgroup_watch import CgroupWatcher
from agent.sources.host import own_cgroup
from agent.sources.update import Source
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer


@dataclass(slots=True)
class Making:
    """Used once, at the start."""

    config: Config
    state: State
    folder: StateFolder
    mount: Path
    source: Source
    datapath: Datapath
    loaded: Loaded
    outputs: Sequence[Output]
    hz: int  # jiffies a second
    folding: Folding = field(init=False)

    def __post_init__(self) -> None:
        self.folding = Folding(self.datapath.maps["denials"])

    def parts(self) -> Parts:
        config, datapath, source = self.config, self.datapath, self.source
        facts, writer, inbox, folders = self._facts(), self._writer(), Inbox(), Folders()
        watcher = CgroupWatcher(self.mount, config.cgroup_roots)
        storages = tuple(datapath.kernel_only[name] for name in ("sockets", "greetings", "requests"))
        connections = Connections(datapath.maps, watcher.paths_of, storages, writer.lock)
        health = Health(datapath, writer, folders, self.mount)
        directory = EndpointDirectory(config.node, HELD_BY_LSM if facts.holds_families else frozenset())
        known_here = self.state.complete or datapath.adopted or bool(self.state.damage)
        reporter = Reporter(
            facts,
            self.loaded.instructions,
            datapath.maps,
            source,
            writer,
            health,
            folders,
            directory,
            time.monotonic,
        )
        return Parts(
            config=config, kernel=datapath, writer=writer, source=source, watcher=watcher, inbox=inbox,
            folders=folders, health=health, directory=directory, reporter=reporter, hz=self.hz,
            drain=self._drain(writer, inbox, connections), closer=SocketCloser(connections),
            classifier=Classifier(writer, config.log_folders, reporter.pending, known_here, source.whole_truth),
            unknown=UnknownCgroups(folders, self.mount, time.monotonic), own_cgroup=own_cgroup(self.mount),
            keeper=Keeper(self.folder, writer, known_here, dict(self.state.claims)),
            receivers=tuple(output.report for output in self.outputs),
        )  # fmt: skip

    def totals(self, parts: Parts) -> TotalsReader:
        return TotalsReader(self.datapath.maps, self.folding, lambda: _lost(parts))

    def _facts(self) -> AgentFacts:
        """And the log's lines about what this start has found."""
        config, datapath, state = self.config, self.datapath, self.state
        gone = state.complete and state.boot == boot_id() and not datapath.adopted
        if gone:
            event("pins.were_gone", level=logging.ERROR, pins=str(config.pins), why=PINS_WERE_GONE)
        if self.loaded.charged:
            event("maps.charged_to_agent", level=logging.WARNING, why=self.loaded.charged)
        if datapath.lost:
            event("links.were_lost", level=logging.ERROR, links=datapath.lost, why=LINKS_WERE_LOST)
        return AgentFacts(
            version=__version__,
            node=config.node,
            source=self.source.name,
            kernel=platform.release(),
            bcc=self.loaded.bcc,
            features=datapath.features.as_dict(),
            pins=str(config.pins),
            on_agent_loss=config.on_agent_loss.value,
            started=time.time() - process_age_seconds(),
            holds_families=datapath.features.lsm_cgroup,
            pins_were_gone=gone,
            links_were_lost=datapath.lost,
        )

    def _writer(self) -> Writer:
        """What the kernel counted under a number goes before another identity has it."""
        maps, folding, state, limits = self.datapath.maps, self.folding, self.state, self._limits()
        clear_identities(maps, folding, unknown_numbers(maps, folding, state.numbers.values()))

        def check(want: Want, cluster: Cluster) -> None:
            check_capacity(want, limits, cluster)

        numbers = IdentityNumbers(state.numbers, lambda found: clear_identities(maps, folding, found))
        has = self.datapath.features
        admission = Admission(
            limits.peers, ServiceShares(limits.hosts), dict(state.admitted), limits.names,
            hellos=has.write_seq and has.sockops,
            requests=has.write_seq and has.sockops and has.shared_frags,
        )  # fmt: skip
        intake = Intake(check, limits.rules, admission)
        return Writer(maps, numbers, intake, dict(state.claims), {name: each.entries for name, each in maps.items()})

    def _limits(self) -> Limits:
        """A revision is written before what it replaces is deleted, and both must fit: nine tenths of each map."""
        room = {name: kernel_map.entries * 9 // 10 for name, kernel_map in self.datapath.maps.items()}
        return Limits(
            peers=room["peers"], hosts=room["hosts"], rules=room["rules"], assignments=room["endpoints"],
            names=room["names"] if self.datapath.features.netns_owner else 0,
        )  # fmt: skip

    def _drain(self, writer: Writer, inbox: Inbox, connections: Connections) -> FlowDrain:
        config = self.config
        accountant = Accountant(
            datagram_idle_ticks=int((config.reply_seconds + 5) * self.hz),
            tcp_idle_ticks=int(config.tcp_idle_seconds * self.hz),
        )
        return FlowDrain(
            self.datapath.maps, jiffies=Jiffies(), accountant=accountant, receivers=self.outputs,
            evicted=inbox.evicted, still_open=connections.still_open, folding=self.folding,
            taken=lambda: writer.endpoints.slots.taken, interval_seconds=config.drain_seconds, hz=self.hz,
        )  # fmt: skip


def _lost(parts: Parts) -> dict[str, int]:
    """What the node's threads lost, by reason (R2)."""
    return parts.drain.lost() | parts.closer.lost() | parts.watcher.lost()
