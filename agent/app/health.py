"""Is what should be enforced enforced? Looked at every two seconds; mended where possible, said loudly where not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.app.folders import Folders
from agent.errors import CapacityError, DagwallError, KernelError, StateError
from agent.kernel.datapath import Datapath
from agent.log import event
from agent.sync.writer import Outcome, Writer


@dataclass(slots=True)
class Health:
    """Owned by the writing thread. `problems`, by topic, make the agent not ready."""

    datapath: Datapath
    writer: Writer
    folders: Folders
    mount: Path
    problems: dict[str, str] = field(default_factory=dict)

    def guarded(self, step: Callable[[], Outcome | None]) -> Outcome:
        """A map or hook that refuses, or is full, makes the agent not ready; nothing enforced is lost."""
        try:
            return step() or Outcome()
        except (KernelError, CapacityError) as exc:
            self.say("kernel", str(exc))
            return Outcome()

    def saved(self, step: Callable[[], None]) -> None:
        """A state folder that takes nothing: what is enforced stays, but a restart would forget. Not ready."""
        try:
            step()
        except StateError as exc:
            self.say("state", str(exc))
        else:
            self.say("state", "")

    def attach(self) -> Outcome:
        """Our programs on every root that is there."""
        self.datapath.attach([self.mount / root.path.lstrip("/") for root in self.folders.roots.values()])
        return Outcome()

    def check(self) -> None:
        """Hooks lost, roots missing, pins gone, containers that no program sees."""
        if "kernel" in self.problems:
            self._mend()
        roots = self.folders.roots.values()
        attached = {(a.cgroup_id, a.hook) for a in self.datapath.attached()}
        hooks = self.datapath.hooks()
        missing = [root.path for root in roots if any((root.cgroup_id, hook) not in attached for hook in hooks)]
        if missing:
            self.guarded(self.attach)
        self.say("roots", "" if roots else "no pods' root in the cgroup tree: nothing is enforced")
        self.say("hooks", f"not attached to {', '.join(missing)}" if missing else "")
        self.say("outside", _outside([self.writer.cluster.pod_name(uid) for uid in self.folders.unguarded_pods()]))
        if not self.datapath.pins_are_there():
            self.guarded(self._pin_again)

    def say(self, topic: str, problem: str) -> None:
        """A problem is logged when it comes up, not each time it is seen; an empty one is solved."""
        if problem and self.problems.get(topic) != problem:
            event("agent.not_ready", level=logging.ERROR, topic=topic, why=problem)
        if problem:
            self.problems[topic] = problem
        else:
            self.problems.pop(topic, None)

    def _mend(self) -> None:
        try:
            self.attach()
            self.writer.resync()
        except DagwallError as exc:
            self.problems["kernel"] = str(exc)
        else:
            del self.problems["kernel"]
            event("kernel.mended")

    def _pin_again(self) -> Outcome:
        self.datapath.pin_again()
        event("pins.restored", level=logging.WARNING)
        return Outcome()


def _outside(pods: list[str]) -> str:
    """What is wrong with these pods; "" with none. All of them are in `status`; here so many as fit into a line."""
    if not pods:
        return ""
    more = f" and {len(pods) - 5} more" if len(pods) > 5 else ""
    return f"containers outside the pods' roots, which no program sees: pods {', '.join(pods[:5])}{more}"
