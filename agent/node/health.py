"""Is what should be enforced enforced? Looked at every two seconds; mended where possible, said loudly where not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import CapacityError, DagwallError, KernelError, StateError
from agent.kernel.datapath import Datapath
from agent.log import event
from agent.node.folders import Folders
from agent.sync.writer import Outcome, Writer

WHOLE_SECONDS = 10.0
WHOLE_SHARE = 100
"""All maps are compared after so many times what the last comparison took."""


@dataclass(slots=True)
class Health:
    """Owned by the writing thread. `problems`, by topic, make the agent not ready."""

    datapath: Datapath
    writer: Writer
    folders: Folders
    mount: Path
    problems: dict[str, str] = field(default_factory=dict)
    whole_due: float = 0.0  # when all maps are compared next, on the monotonic clock
    repaired: int = 0  # entries that said something else than was written

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

    def _attach_again(self) -> Outcome:
        """What was opened while a hook was off is judged now."""
        self.attach()
        self.writer.question_all()
        return Outcome()

    def check(self) -> None:
        """Hooks lost, roots missing, pins gone, containers that no program sees."""
        if "kernel" in self.problems:
            self._mend()
        roots = self.folders.roots.values()
        found = self.datapath.attached()
        attached = {(a.cgroup_id, a.hook) for a in found if a.ours}
        for foreign in (a for a in found if a.program_id and not a.ours):
            event(
                "hook.replaced", level=logging.ERROR, hook=foreign.hook, cgroup_id=foreign.cgroup_id,
                program_id=foreign.program_id, why="another program was put into our link; ours is put back",
            )  # fmt: skip
        hooks = self.datapath.hooks()
        missing = [root.path for root in roots if any((root.cgroup_id, hook) not in attached for hook in hooks)]
        missing += [f"map {a.on_map}" for a in found if a.on_map and not a.ours]
        if missing:
            self.guarded(self._attach_again)
        self.say("roots", "" if roots else "no pods' root in the cgroup tree: nothing is enforced")
        self.say("hooks", f"not attached to {', '.join(missing)}" if missing else "")
        self.say("outside", _outside([self.writer.cluster.pod_name(uid) for uid in self.folders.unguarded_pods()]))
        if not self.datapath.pins_are_there():
            self.guarded(self._pin_again)
        if "kernel" not in self.problems:
            self.guarded(self._compare)

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

    def _compare(self) -> Outcome:
        """Do the maps say what this agent has written? `endpoints` each time, all as often as costs little."""
        began = time.monotonic()
        whole = began >= self.whole_due
        differing = self.writer.differing(whole=whole)
        if whole:
            self.whole_due = time.monotonic() + max(WHOLE_SECONDS, WHOLE_SHARE * (time.monotonic() - began))
        what = ", ".join(f"{count} of {name}" for name, count in differing.items())
        if differing:
            self.writer.resync()
            self.repaired += sum(differing.values())
            event("maps.repaired", level=logging.ERROR, entries=differing)
        if whole or differing:
            self.say("maps", f"entries that another program has changed, written again: {what}" if what else "")
        return Outcome()

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
