"""From a configuration to a running agent, and back to nothing: wiring, threads, signals, shutdown."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from immutables import Map

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
from agent.model.want import Want
from agent.node.directory import Observer
from agent.node.flow_drain import FlowDrain, Outputs, clear_identities, unknown_numbers
from agent.node.folding import Folding
from agent.node.node import Node
from agent.node.source_thread import SourceThread, with_host
from agent.node.state import LINKS_WERE_LOST, PINS_WERE_GONE, State, StateFolder, boot_id
from agent.outputs.http import split_address
from agent.sources.cgroup_watch import CgroupWatcher
from agent.sources.cgroups import find_cgroup2_mount
from agent.sources.files import FilesSource
from agent.sources.host import AddressWatch, host_addresses
from agent.sources.last_valid import LastValid
from agent.sources.manifest_set import ManifestSet
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
    following: SourceThread
    drain: FlowDrain
    datapath: Datapath
    loaded: Loaded
    _state: StateFolder
    _failure: list[BaseException]

    def run(self) -> None:
        """The writing thread; the draining one beside it. Enforcement stays when it returns, or raises."""
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (
                ("drain", self.drain.run),
                ("close", self.node.closer.run),
                ("source", lambda: self.following.run(self.node.stopping)),
            )
        ]
        if self._failure:  # before the loop began
            self.node.stop()
        threading.excepthook = lambda failed: self._failed(failed.thread, failed.exc_value)
        for thread in threads:
            thread.start()
        try:
            self.node.run()
        finally:
            self.drain.inbox.put(None)
            self.node.closer.inbox.put(None)
            for thread in threads:
                thread.join(timeout=END_SECONDS)
            threading.excepthook = threading.__excepthook__
            busy = [thread.name for thread in threads if thread.is_alive()]
            if busy:  # on a starved node; what they work with goes with the process
                event("thread.busy", level=logging.WARNING, threads=busy)
            else:
                self.node.close()
                self.following.addresses.close()
                self._state.close()
        if self._failure:
            raise self._failure[0]

    def stop(self) -> None:
        self.node.stop()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001  carried to run(): an agent without one of its threads must end
            self._failed(threading.current_thread(), exc)

    def _failed(self, thread: threading.Thread | None, exc: BaseException | None) -> None:
        """Threads of sources and outputs end here too."""
        self._failure.append(exc or RuntimeError("a thread ended"))
        event("thread.failed", level=logging.CRITICAL, thread=thread.name if thread else "", exc=exc)
        self.node.stop()


class Everything(Outputs, Observer, Protocol):
    """Whoever takes what the agent has to say."""


def build(config: Config, settings: Settings, outputs: Everything, publish: Callable[[Agent], None]) -> Agent:
    """Load, fill, attach: when it returns, everything known is enforced.

    `publish` is called from the writing thread when there is something new to show. Raises DagwallError.
    """
    failures: list[BaseException] = []
    threading.excepthook = lambda failed: failures.append(failed.exc_value or RuntimeError("a thread ended"))
    state_folder = StateFolder(config.state)
    state = state_folder.read()
    for text in state.damage[:10]:
        event("state.damaged", level=logging.ERROR, problem=text, of=len(state.damage))
    mount = config.cgroup_mount or find_cgroup2_mount()
    found, jiffies = features(mount), Jiffies()
    hz = ticks_a_second()
    addresses = AddressWatch()  # before the first look, so that nothing falls between
    settings = with_host(replace(settings, node=config.node, metrics_port=_metrics_port(config)), host_addresses())
    store = Store(
        Cluster(settings=settings, namespaces=_remembered(state)), dict(state.claims),
        clock=time.time if config.files is None else None,
    )  # fmt: skip
    source = _source(config, settings, store)
    first = source.start()
    datapath = Datapath(Pins(config.pins), found, config.map_entries)
    loaded = datapath.load()
    event("programs.loaded", bcc=loaded.bcc, adopted=datapath.adopted, hz=hz, features=found.as_dict())
    if loaded.charged:
        event("maps.charged_to_agent", level=logging.WARNING, why=loaded.charged)
    gone = state.complete and state.boot == boot_id() and not datapath.adopted
    if gone:
        event("pins.were_gone", level=logging.ERROR, pins=str(config.pins), why=PINS_WERE_GONE)
    if datapath.lost:
        event("links.were_lost", level=logging.ERROR, links=datapath.lost, why=LINKS_WERE_LOST)
    limits = _limits(datapath)

    def check(want: Want, cluster: Cluster) -> None:
        check_capacity(want, limits, cluster)

    folding = Folding(datapath.maps["denials"])
    numbers = IdentityNumbers(state.numbers, lambda found: clear_identities(datapath.maps, folding, found))
    clear_identities(datapath.maps, folding, unknown_numbers(datapath.maps, folding, state.numbers.values()))
    writer = Writer(
        datapath.maps, numbers,
        Intake(check, room=limits.rules * 3 // 2, admission=Admission(limits.peers, dict(state.admitted))),
        dict(state.claims), {name: kernel_map.entries for name, kernel_map in datapath.maps.items()},
    )  # fmt: skip
    accountant = Accountant(
        datagram_idle_ticks=int((config.reply_seconds + 5) * hz), tcp_idle_ticks=int(config.tcp_idle_seconds * hz)
    )
    agent: list[Agent] = []  # the parts refer to the whole, which is made last
    drain = FlowDrain(
        datapath.maps, jiffies=jiffies, accountant=accountant, outputs=outputs,
        evicted=lambda by_share: agent[0].node.evicted(by_share),  # noqa: PLW0108
        still_open=lambda keys: agent[0].node.connections.still_open(keys),  # noqa: PLW0108
        folding=folding, taken=lambda: agent[0].node.writer.endpoints.slots.taken,
        interval_seconds=config.drain_seconds, hz=hz,
    )  # fmt: skip
    node = Node(
        config, datapath=datapath, writer=writer, source=source, drain=drain, state=state_folder, hz=hz,
        watcher=CgroupWatcher(mount, config.cgroup_roots),
        known_here=state.complete or datapath.adopted or bool(state.damage), pins_were_gone=gone, observer=outputs,
        publish=lambda _: publish(agent[0]),
    )  # fmt: skip
    following = SourceThread(source, addresses, node.updated)
    agent.append(Agent(node, following, drain, datapath, loaded, state_folder, failures))
    node.start(first)
    return agent[0]


def _metrics_port(config: Config) -> int:
    return split_address(config.metrics)[1] if config.metrics else 0


def _remembered(state: State) -> Map[str, Namespace]:
    """What a node that cannot reach the API knows of namespaces: which are managed (L3)."""
    return Map({name: Namespace(name, managed=managed) for name, managed in state.namespaces.items()})


def _source(config: Config, settings: Settings, store: Store) -> Source:
    """Manifests of a folder, or the API server. Raises DagwallError where neither can be begun."""
    if config.files is not None:
        return FilesSource(config.files, store, ManifestSet(settings.cluster, config.managed_namespaces))
    from agent.sources.kube_api import KubeApi  # noqa: PLC0415  17 MB that an agent on files does not need
    from agent.sources.kubernetes import KubernetesSource  # noqa: PLC0415

    api = KubeApi.connect(str(config.kubeconfig or ""))
    kept = LastValid(config.state / "last-valid.json")
    return KubernetesSource(api, store, config.node, settings.cluster, config.managed_namespaces, kept=kept)


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


def resident_bytes() -> int:
    """Memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
