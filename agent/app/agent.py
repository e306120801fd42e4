"""From a configuration to a running agent, and back to nothing: wiring, threads, signals, shutdown."""

from __future__ import annotations

import contextlib
import logging
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from immutables import Map

from agent import __version__
from agent.app.sources import source_kind
from agent.compiler.admission import Admission
from agent.compiler.capacity import Limits, check_capacity
from agent.config import Config
from agent.flows.account import Accountant
from agent.kernel.datapath import Datapath
from agent.kernel.loader import Loaded
from agent.kernel.pins import Pins
from agent.kernel.probe import Jiffies, features, ticks_a_second
from agent.log import event
from agent.model.cluster import Cluster, Namespace, Settings
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
from agent.node.node import Node, Parts
from agent.node.process import process_age_seconds
from agent.node.reporter import Reporter
from agent.node.socket_closer import SocketCloser
from agent.node.source_thread import SourceThread, with_host
from agent.node.state import State, StateFolder, boot_id
from agent.node.totals import TotalsReader, clear_identities, unknown_numbers
from agent.node.unknown import UnknownCgroups
from agent.outputs.http import split_address
from agent.outputs.notices import LINKS_WERE_LOST, PINS_WERE_GONE
from agent.outputs.output import Output
from agent.sources.cgroup_watch import CgroupWatcher
from agent.sources.cgroups import find_cgroup2_mount
from agent.sources.host import AddressWatch, host_addresses, own_cgroup
from agent.sources.store import Store
from agent.sources.update import Source
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer

FILES = 4096
"""Descriptors: some thirty, and one for each connection of the local API and the metrics."""
END_SECONDS = 30.0
"""What each thread has to end what it does: a last read of all flows, a last report."""


@dataclass(slots=True)
class Agent:
    """A node that enforces. `run` blocks until `stop`, from a signal or another thread."""

    node: Node
    source_thread: SourceThread
    drain: FlowDrain
    datapath: Datapath
    totals: TotalsReader
    _state: StateFolder
    _failure: list[BaseException]

    def run(self) -> None:
        """The writing thread; the draining one beside it. Enforcement stays when it returns, or raises."""
        inbox = self.node.parts.inbox
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (
                ("drain", self.drain.run),
                ("close", self.node.parts.closer.run),
                ("source", lambda: self.source_thread.run(inbox.stopping)),
            )
        ]
        if self._failure:  # before the loop began
            self.stop()
        threading.excepthook = lambda failed: self._failed(failed.thread, failed.exc_value)
        for thread in threads:
            thread.start()
        try:
            self.node.run()
        finally:
            self.drain.inbox.put(None)
            self.node.parts.closer.inbox.put(None)
            for thread in threads:
                thread.join(timeout=END_SECONDS)
            threading.excepthook = threading.__excepthook__
            busy = [thread.name for thread in threads if thread.is_alive()]
            if busy:  # on a starved node; what they work with goes with the process
                event("thread.busy", level=logging.WARNING, threads=busy)
            else:
                self.node.close()
                self.source_thread.addresses.close()
                self._state.close()
        if self._failure:
            raise self._failure[0]

    def stop(self) -> None:
        self.node.parts.inbox.stop()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001  carried to run(): an agent without one of its threads must end
            self._failed(threading.current_thread(), exc)

    def _failed(self, thread: threading.Thread | None, exc: BaseException | None) -> None:
        """Threads of sources and outputs end here too."""
        self._failure.append(exc or RuntimeError("a thread ended"))
        event("thread.failed", level=logging.CRITICAL, thread=thread.name if thread else "", exc=exc)
        self.stop()


def build(config: Config, settings: Settings, outputs: Sequence[Output] = ()) -> Agent:
    """Load, fill, attach: when it returns, everything known is enforced. Raises DagwallError."""
    failures: list[BaseException] = []
    threading.excepthook = lambda failed: failures.append(failed.exc_value or RuntimeError("a thread ended"))
    folder = StateFolder(config.state)
    state = folder.read()
    for text in state.damage[:10]:
        event("state.damaged", level=logging.ERROR, problem=text, of=len(state.damage))
    mount = config.cgroup_mount or find_cgroup2_mount()
    found = features(mount)
    addresses = AddressWatch()  # before the first look, so that nothing falls between
    settings = with_host(replace(settings, node=config.node, metrics_port=_metrics_port(config)), host_addresses())
    source = _source(config, settings, state)
    first = source.start()
    datapath = Datapath(Pins(config.pins), found, config.map_entries)
    loaded = datapath.load()
    event("programs.loaded", bcc=loaded.bcc, adopted=datapath.adopted, features=found.as_dict())
    facts = _facts(config, source.name, datapath, loaded, state)
    folding = Folding(datapath.maps["denials"])
    writer = _writer(datapath, folding, state)
    watcher, inbox = CgroupWatcher(mount, config.cgroup_roots), Inbox()
    connections = Connections(datapath.maps, watcher.paths_of, datapath.kernel_only["sockets"], writer.lock)
    closer, hz = SocketCloser(connections), ticks_a_second()
    accountant = Accountant(
        datagram_idle_ticks=int((config.reply_seconds + 5) * hz), tcp_idle_ticks=int(config.tcp_idle_seconds * hz)
    )
    drain = FlowDrain(
        datapath.maps, jiffies=Jiffies(), accountant=accountant, receivers=outputs, evicted=inbox.evicted,
        still_open=connections.still_open, folding=folding, taken=lambda: writer.endpoints.slots.taken,
        interval_seconds=config.drain_seconds, hz=hz,
    )  # fmt: skip
    folders = Folders()
    health = Health(datapath, writer, folders, mount)
    directory = EndpointDirectory(config.node, HELD_BY_LSM if found.lsm_cgroup else frozenset())
    known_here = state.complete or datapath.adopted or bool(state.damage)
    reporter = Reporter(
        facts, loaded.instructions, datapath.maps, source, writer, health, folders, directory, time.monotonic
    )
    node = Node(
        Parts(
            config=config, kernel=datapath, writer=writer, source=source, watcher=watcher, inbox=inbox,
            folders=folders, health=health, directory=directory, reporter=reporter, drain=drain, closer=closer,
            classifier=Classifier(writer, config.log_folders, reporter.pending, known_here, source.whole_truth),
            unknown=UnknownCgroups(folders, mount, time.monotonic),
            keeper=Keeper(folder, writer, known_here, dict(state.claims)), hz=hz, own_cgroup=own_cgroup(mount),
            receivers=tuple(output.report for output in outputs),
        )
    )  # fmt: skip
    totals = TotalsReader(datapath.maps, folding, lambda: drain.lost() | closer.lost())
    agent = Agent(node, SourceThread(source, addresses, inbox.updated), drain, datapath, totals, folder, failures)
    node.start(first)
    return agent


def _metrics_port(config: Config) -> int:
    return split_address(config.metrics)[1] if config.metrics else 0


def _remembered(state: State) -> Map[str, Namespace]:
    """What a node that cannot reach the API knows of namespaces: which are managed (L3)."""
    return Map({name: Namespace(name, managed=managed) for name, managed in state.namespaces.items()})


def _source(config: Config, settings: Settings, state: State) -> Source:
    """Raises DagwallError where it cannot be begun."""
    kind = source_kind(config)
    known = Cluster(settings=settings, namespaces=_remembered(state))
    return kind.open(config, settings, Store(known, dict(state.claims), clock=kind.clock))


def _facts(config: Config, source: str, datapath: Datapath, loaded: Loaded, state: State) -> AgentFacts:
    """And the log's lines about what this start has found."""
    gone = state.complete and state.boot == boot_id() and not datapath.adopted
    if gone:
        event("pins.were_gone", level=logging.ERROR, pins=str(config.pins), why=PINS_WERE_GONE)
    if datapath.lost:
        event("links.were_lost", level=logging.ERROR, links=datapath.lost, why=LINKS_WERE_LOST)
    return AgentFacts(
        version=__version__,
        node=config.node,
        source=source,
        kernel=platform.release(),
        bcc=loaded.bcc,
        features=datapath.features.as_dict(),
        pins=str(config.pins),
        on_agent_loss=config.on_agent_loss.value,
        started=time.time() - process_age_seconds(),
        holds_families=datapath.features.lsm_cgroup,
        pins_were_gone=gone,
        links_were_lost=datapath.lost,
    )


def _writer(datapath: Datapath, folding: Folding, state: State) -> Writer:
    """What the kernel counted under a number goes before another identity has it."""
    maps, limits = datapath.maps, _limits(datapath)
    clear_identities(maps, folding, unknown_numbers(maps, folding, state.numbers.values()))

    def check(want: Want, cluster: Cluster) -> None:
        check_capacity(want, limits, cluster)

    numbers = IdentityNumbers(state.numbers, lambda found: clear_identities(maps, folding, found))
    intake = Intake(check, room=limits.rules * 3 // 2, admission=Admission(limits.peers, dict(state.admitted)))
    return Writer(maps, numbers, intake, dict(state.claims), {name: each.entries for name, each in maps.items()})


def _limits(datapath: Datapath) -> Limits:
    """A revision is written before what it replaces is deleted, and both must fit: nine tenths of each map."""
    room = {name: kernel_map.entries * 9 // 10 for name, kernel_map in datapath.maps.items()}
    return Limits(peers=room["peers"], hosts=room["hosts"], rules=room["rules"], assignments=room["endpoints"])


def stop_on_signals(agent: Agent) -> None:
    """SIGTERM and SIGINT end the agent; what it enforces stays."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())


def raise_file_limit() -> None:
    """As many descriptors as it takes, where this process may: clients of the outputs must not take the agent's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in ((max(soft, FILES), max(hard, FILES)), (max(soft, min(FILES, hard)), hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
            return
    event("files.few", level=logging.WARNING, limit=soft, wanted=FILES)
