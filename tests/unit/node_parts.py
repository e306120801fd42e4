"""A whole writing thread on a kernel of dictionaries, folders that tests make, and a clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.abi.structs import EVENT
from agent.config import Config
from agent.errors import StateError
from agent.flows.account import Accountant
from agent.kernel.sock_filter import Ends
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster
from agent.model.flow import Denial, Flow
from agent.model.identity import PodUid
from agent.model.node_state import NodeState
from agent.model.verdict import EventKind
from agent.node.classifier import Classifier
from agent.node.directory import EndpointDirectory
from agent.node.flow_drain import FlowDrain, Message
from agent.node.folders import Folders
from agent.node.folding import Folding
from agent.node.health import Health
from agent.node.inbox import Inbox
from agent.node.keeper import Keeper
from agent.node.news import News
from agent.node.node import Node
from agent.node.parts import Parts
from agent.node.reporter import Reporter
from agent.node.socket_closer import SocketCloser, Stalled, Sweep
from agent.node.state import StateChange
from agent.node.unknown import UnknownCgroups
from agent.sources.cgroups import ContainerFolder, PodFolder, RootFolder
from agent.sources.update import Update
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer
from tests.unit.fake_kernel import Clock, FakeKernel, FakeSource, FakeWatcher
from tests.unit.seen import FACTS
from tests.unit.test_sync_writer import Limit


@dataclass
class FakeFolder:
    """A state folder in memory."""

    kept: list[StateChange] = field(default_factory=list)
    full: bool = False

    def keep(self, change: StateChange) -> None:
        if self.full:
            raise StateError("disk full")
        self.kept.append(change)

    def damage(self) -> tuple[str, ...]:
        return ()


class NoConnections:
    """Nothing is open in any pod."""

    def ending_denied(self, cgroup_id: int) -> Iterator[int]:  # noqa: ARG002  as the real one
        return iter(())

    def ending(self, cgroup_id: int, stalled: Mapping[int, Ends]) -> Iterator[int]:  # noqa: ARG002
        return iter(())


@dataclass
class FakeNode:
    """`node`, and all that tests look at or steer. `adopted`: an agent has enforced here before."""

    mount: Path
    adopted: bool = False
    known_here: bool = True
    clock: Clock = field(default_factory=Clock)
    watcher: FakeWatcher = field(default_factory=FakeWatcher)
    source: FakeSource = field(default_factory=FakeSource)
    folder: FakeFolder = field(default_factory=FakeFolder)
    limit: Limit = field(default_factory=Limit)
    reports: list[NodeState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kernel = FakeKernel(adopted=self.adopted)
        self.writer = writer = Writer(self.kernel.maps, IdentityNumbers(), Intake(self.limit))
        folders, self.inbox = Folders(), Inbox()
        health = Health(self.kernel, writer, folders, self.mount, self.clock)
        directory = EndpointDirectory("n1")
        reporter = Reporter(
            FACTS, {"egress": 100, "connect4": 200}, self.kernel.maps, self.source, writer, health, folders,
            directory, self.clock,
        )  # fmt: skip
        self.drain = FlowDrain(
            self.kernel.maps, jiffies=self, receivers=(self,), evicted=self.inbox.evicted,
            accountant=Accountant(datagram_idle_ticks=1, tcp_idle_ticks=1), still_open=lambda _: set(),
            folding=Folding(self.kernel.maps["denials"]), taken=set[int], interval_seconds=5.0, hz=100,
        )  # fmt: skip
        self.closer = SocketCloser(NoConnections())
        self.node = Node(
            Parts(
                config=Config("n1"), kernel=self.kernel, writer=writer, source=self.source, watcher=self.watcher,
                inbox=self.inbox, folders=folders, health=health, directory=directory, reporter=reporter,
                drain=self.drain, closer=self.closer,
                classifier=Classifier(
                    writer, self.mount / "logs", reporter.pending, self.known_here, clock=self.clock
                ),
                unknown=UnknownCgroups(folders, self.mount, self.clock),
                keeper=Keeper(self.folder, writer, self.known_here), hz=100, own_cgroup=0,
                receivers=(self.reports.append,), clock=self.clock, age=lambda: 2.5, news=News(self.clock),
            )
        )  # fmt: skip
        (self.mount / "logs").mkdir()

    def now(self) -> int:
        return 0

    def flows(self, flows: list[Flow]) -> None:
        """Nobody asks."""

    def denials(self, denials: list[Denial]) -> None:
        """Nobody asks."""

    def start(self, snapshot: Cluster) -> None:
        self.source.snapshot = snapshot
        self.node.start(Update(snapshot, EVERYTHING, ()))

    def update(self, snapshot: Cluster, *pods: PodUid, everything_else: bool = False) -> None:
        """The source has this; the thread makes a turn, a quarter of a second later."""
        self.post(snapshot, *pods, everything_else=everything_else)
        self.clock.now += 0.25
        self.turn(self.inbox.fileno())

    def post(self, snapshot: Cluster, *pods: PodUid, everything_else: bool = False) -> None:
        """The source has this, and the thread has not looked yet."""
        changes = Changes(frozenset(pods), everything_else=everything_else)
        self.inbox.updated(self.clock.now, Update(snapshot, changes, ()))

    def turn(self, *ready: int) -> None:
        self.node.turn({*ready})

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.turn()

    def ask(self, cgroup_id: int, *ancestors: int) -> None:
        """The kernel does not know a cgroup."""
        record = EVENT.pack(kind=EventKind.PENDING, cgroup_id=cgroup_id, ancestors=(*ancestors, 0, 0)[:2])
        self.kernel.events.records.append(record)
        self.turn(self.kernel.events.fileno())

    def add_root(self, name: str = "kubepods") -> RootFolder:
        path = self.mount / name
        path.mkdir()
        folder = RootFolder(f"/{name}", path.stat().st_ino, 1)
        self.watcher.add(folder)
        return folder

    @property
    def newest(self) -> NodeState:
        return self.reports[-1]

    def messages(self) -> list[Message]:
        """What the draining thread was sent since the last call."""
        found: list[Message] = []
        while not self.drain.inbox.empty():
            found.append(self.drain.inbox.get())
        return found

    def sweeps(self) -> list[Sweep | Stalled | None]:
        found: list[Sweep | Stalled | None] = []
        while not self.closer.inbox.empty():
            found.append(self.closer.inbox.get())
        return found

    def close(self) -> None:
        self.node.close()


def pod_folder(uid: PodUid, cgroup_id: int, level: int = 3) -> PodFolder:
    return PodFolder(uid, f"/kubepods/{uid}", cgroup_id, level, "/kubepods")


def container_folder(uid: PodUid, cgroup_id: int, root: str = "/kubepods") -> ContainerFolder:
    return ContainerFolder(uid, "c", f"/kubepods/{uid}/{cgroup_id}", cgroup_id, 4, root)


def revision(snapshot: Cluster, number: int) -> Cluster:
    return replace(snapshot, revision=number)
