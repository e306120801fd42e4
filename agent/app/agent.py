"""From a configuration to a running agent, and back to nothing: wiring, threads, signals, shutdown."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from immutables import Map

from agent.app.parts import Making
from agent.app.sources import source_kind
from agent.config import Config
from agent.kernel.datapath import Datapath
from agent.kernel.pins import Pins
from agent.kernel.probe import features, ticks_a_second
from agent.log import event
from agent.model.cluster import Cluster, Namespace, Settings
from agent.node.flow_drain import FlowDrain
from agent.node.node import Node
from agent.node.source_thread import SourceThread, with_host
from agent.node.state import State, StateFolder
from agent.node.totals import TotalsReader
from agent.outputs.http import split_address
from agent.outputs.output import Output
from agent.sources.cgroups import find_cgroup2_mount
from agent.sources.host import AddressWatch, host_addresses
from agent.sources.store import Store
from agent.sources.update import Source

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
    found, hz = features(mount), ticks_a_second()
    addresses = AddressWatch()  # before the first look, so that nothing falls between
    settings = with_host(replace(settings, node=config.node, metrics_port=_metrics_port(config)), host_addresses())
    source = _source(config, settings, state)
    first = source.start()
    cache = config.program_cache or config.state / "programs"
    datapath = Datapath(Pins(config.pins), found, config.map_entries, cache=cache)
    loaded = datapath.load()
    if loaded.cache_problem:
        event("programs.cache", level=logging.WARNING, folder=str(cache), problem=loaded.cache_problem)
    event(
        "programs.loaded",
        bcc=loaded.bcc,
        cached=loaded.cached,
        adopted=datapath.adopted,
        hz=hz,
        features=found.as_dict(),
    )
    made = Making(config, state, folder, mount, source, datapath, loaded, outputs, hz)
    parts = made.parts()
    node, thread = Node(parts), SourceThread(source, addresses, parts.inbox.updated)
    agent = Agent(node, thread, parts.drain, datapath, made.totals(parts), folder, failures)
    node.heartbeat.start()
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
