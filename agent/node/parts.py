"""What the writing thread owns, and the inboxes of others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from agent.config import Config
from agent.model.node_state import NodeState
from agent.node.classifier import Classifier
from agent.node.directory import EndpointDirectory
from agent.node.flow_drain import FlowDrain
from agent.node.folders import Folders
from agent.node.health import Health
from agent.node.inbox import Inbox
from agent.node.keeper import Keeper
from agent.node.kernel import Kernel
from agent.node.news import News
from agent.node.process import process_age_seconds
from agent.node.reporter import Reporter
from agent.node.socket_closer import SocketCloser
from agent.node.unknown import UnknownCgroups
from agent.sources.cgroup_watch import CgroupEvent
from agent.sources.update import Source
from agent.sync.writer import Writer


class Watcher(Protocol):
    """The cgroup folders (agent.sources.cgroup_watch.CgroupWatcher). `read` and `resync` raise KernelError."""

    @property
    def trouble(self) -> str: ...
    def fileno(self) -> int: ...
    def read(self) -> list[CgroupEvent]: ...
    def resync(self) -> list[CgroupEvent]: ...
    def lost(self) -> dict[str, int]: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Parts:
    """Made by agent.app.parts."""

    config: Config
    kernel: Kernel
    writer: Writer
    source: Source
    watcher: Watcher
    inbox: Inbox
    folders: Folders
    health: Health
    classifier: Classifier
    directory: EndpointDirectory
    unknown: UnknownCgroups
    keeper: Keeper
    reporter: Reporter
    drain: FlowDrain
    closer: SocketCloser
    hz: int
    own_cgroup: int  # this process's; 0: it is in none
    receivers: Iterable[Callable[[NodeState], None]] = ()  # of reports
    clock: Callable[[], float] = time.monotonic
    age: Callable[[], float] = process_age_seconds
    news: News = field(default_factory=News)

    def without_events(self) -> tuple[str, ...]:
        """What is found by looking only, and so later."""
        pods, files = self.watcher.trouble, self.source.without_events()
        return (*([f"pods' folders: {pods}"] if pods else []), *([f"manifests: {files}"] if files else []))
