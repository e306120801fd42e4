"""Is what should be enforced enforced? Looked at every two seconds; mended where possible, else not ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import CapacityError, DagwallError, KernelError, StateError
from agent.log import event
from agent.model.node_state import Topic
from agent.node.folders import Folders
from agent.node.kernel import Hooks
from agent.sync.writer import Outcome, Writer

WHOLE_SECONDS = 10.0
WHOLE_SHARE = 100
"""All maps are compared after so many times what the last comparison took."""


@dataclass(slots=True)
class Health:
    """Owned by the writing thread. `problems`, by topic, make the agent not ready."""

    hooks: Hooks
    writer: Writer
    folders: Folders
    mount: Path
    clock: Callable[[], float] = time.monotonic
    problems: dict[Topic, str] = field(default_factory=dict)
    whole_due: float = 0.0  # when all maps are compared next, on the monotonic clock
    repaired: int = 0  # entries that were not as written

    def guarded(self, step: Callable[[], Outcome | None]) -> Outcome:
        """A map or hook that refuses, or is full, makes the agent not ready; nothing enforced is lost."""
        try:
            return step() or Outcome()
        except (KernelError, CapacityError) as exc:
            self.note(Topic.KERNEL, str(exc))
            return Outcome()

    def saved(self, step: Callable[[], None]) -> None:
        """A state folder that takes nothing: what is enforced stays, but a restart would forget. Not ready."""
        try:
            step()
        except StateError as exc:
            self.note(Topic.STATE, str(exc))
        else:
            self.note(Topic.STATE, "")

    def attach(self) -> Outcome:
        """Our programs on every root that is there."""
        self.hooks.attach([self.mount / root.path.lstrip("/") for root in self.folders.roots.values()])
        return Outcome()

    def _attach_again(self) -> Outcome:
        """What was opened while a hook was off is judged now."""
        self.attach()
        self.writer.question_all()
        return Outcome()

    def check(self) -> None:
        """Hooks lost, roots missing, pins gone, containers that no program sees."""
        if Topic.KERNEL in self.problems:
            self._mend()
        roots = self.folders.roots.values()
        found = self.hooks.attached()
        attached = {(a.cgroup_id, a.hook) for a in found if a.ours}
        for foreign in (a for a in found if a.program_id and not a.ours):
            event(
                "hook.replaced", level=logging.ERROR, hook=foreign.hook, cgroup_id=foreign.cgroup_id,
                program_id=foreign.program_id, why="another program was put into our link; ours is put back",
            )  # fmt: skip
        hooks = self.hooks.hooks()
        missing = [root.path for root in roots if any((root.cgroup_id, hook) not in attached for hook in hooks)]
        missing += [f"map {a.on_map}" for a in found if a.on_map and not a.ours]
        if missing:
            self.guarded(self._attach_again)
        self.note(Topic.ROOTS, "" if roots else "no pods' root in the cgroup tree: nothing is enforced")
        self.note(Topic.HOOKS, f"not attached to {', '.join(missing)}" if missing else "")
        self.note(
            Topic.OUTSIDE, _outside([self.writer.cluster.pod_name(uid) for uid in self.folders.unguarded_pods()])
        )
        if not self.hooks.pins_are_there():
            self.guarded(self._pin_again)
        if Topic.KERNEL not in self.problems:
            self.guarded(self._compare)

    def note(self, topic: Topic, problem: str) -> None:
        """A problem is logged when it comes up, not each time it is seen; an empty one is solved."""
        if problem and self.problems.get(topic) != problem:
            event("agent.not_ready", level=logging.ERROR, topic=topic.value, why=problem)
        if problem:
            self.problems[topic] = problem
        else:
            self.problems.pop(topic, None)

    def _mend(self) -> None:
        try:
            self.attach()
            self.writer.resync()
        except DagwallError as exc:
            self.problems[Topic.KERNEL] = str(exc)
        else:
            del self.problems[Topic.KERNEL]
            event("kernel.mended")

    def _compare(self) -> Outcome:
        """Do the maps hold what this agent has written? `endpoints` each time, all as often as costs little."""
        began = self.clock()
        whole = began >= self.whole_due
        differing = self.writer.differing(whole=whole)
        if whole:
            self.whole_due = self.clock() + max(WHOLE_SECONDS, WHOLE_SHARE * (self.clock() - began))
        what = ", ".join(f"{count} of {name}" for name, count in differing.items())
        if differing:
            self.writer.resync()
            self.repaired += sum(differing.values())
            event("maps.repaired", level=logging.ERROR, entries=differing)
        if whole or differing:
            self.note(Topic.MAPS, f"entries that another program has changed, written again: {what}" if what else "")
        return Outcome()

    def _pin_again(self) -> Outcome:
        self.hooks.pin_again()
        event("pins.restored", level=logging.WARNING)
        return Outcome()


def _outside(pods: list[str]) -> str:
    """What is wrong with these pods; "" with none. All of them are in `status`; here so many as fit into a line."""
    if not pods:
        return ""
    more = f" and {len(pods) - 5} more" if len(pods) > 5 else ""
    return f"containers outside the pods' roots, which no program sees: pods {', '.join(pods[:5])}{more}"
