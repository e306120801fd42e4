"""Snapshots on their way to the compiler: what is too big is refused by name, and everything else goes on (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.compiler.admission import Admission
from agent.compiler.compiler import Compiler
from agent.errors import CapacityError, InvalidObject, TooManyRows
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster
from agent.model.identity import PodUid
from agent.model.want import Delta, Want

MOST_AT_ONCE = 65_536
"""Rows that a revision may add beside those that it replaces. Of more each kind is held by itself: in memory, too."""

CapacityCheck = Callable[[Want, Cluster], None]
"""Raises CapacityError where a revision does not fit."""


@dataclass(slots=True)
class Intake:
    """`room`: rows that the compiler may be asked for; None: any number. One thread."""

    fits: CapacityCheck
    room: int | None = None
    admission: Admission = field(default_factory=Admission)
    left_out: frozenset[PodUid] = frozenset()  # pods whose rows do not fit: pending, so that nothing leaves them

    def compiled(self, cluster: Cluster) -> tuple[Compiler, Cluster]:
        """A new compiler, and the snapshot that it took. Raises CapacityError."""
        compiler, taken, _ = self.steps(Compiler(self.room), None, cluster, EVERYTHING)
        return compiler, taken

    def recompiled(self, taken: Cluster) -> Compiler:
        """A compiler for what was taken before."""
        compiler = Compiler()
        compiler.update(taken)
        return compiler

    def steps(
        self, compiler: Compiler, before: Cluster | None, cluster: Cluster, changes: Changes
    ) -> tuple[Compiler, Cluster, tuple[Delta, ...] | None]:
        """The compiler that took it, the snapshot without what was refused, and the steps to it; None where it was
        compiled from nothing, because old and new rows beside one another are too many. `before`: what the compiler
        took last; None: nothing. Raises CapacityError where no policy and no new pod is to blame."""
        if self.left_out and (changes.everything_else or any(uid not in cluster.pods for uid in changes.pods)):
            changes, self.left_out = changes | Changes(pods=self.left_out), frozenset()
        ask = self.admission.admit if changes.everything_else else self.admission.substituted
        taken = self._without_left_out(ask(cluster))
        beside = before is not None
        while True:
            try:
                compiler.limit(self.room, MOST_AT_ONCE if beside else None)
                deltas = compiler.steps(taken, changes)
                self.fits(compiler.want, taken)
            except TooManyRows as exc:
                if beside:
                    compiler, beside = Compiler(self.room), False
                    continue
                needs, limit = exc.needs, exc.limit
                if not needs:  # counted, not estimated: what fits is less by as much as the estimates were too high
                    needs = compiler.row_needs()
                    limit = limit * sum(needs.values()) // max(len(compiler.want.rules), 1)
                compiler = self.recompiled(before) if before is not None else Compiler(self.room)
                beside = before is not None
                if not self.admission.too_many_rows(cluster, needs, limit) and not self._leave_out(before, taken):
                    raise CapacityError(str(exc)) from exc
                taken = self._without_left_out(self.admission.substituted(cluster))
                changes |= EVERYTHING
            else:
                self.admission.took(taken)
                return compiler, taken, deltas if beside or before is None else None

    def errors(self) -> tuple[InvalidObject, ...]:
        """What is refused now: policies by name, and pods."""
        pods = (
            InvalidObject(f"Pod/{uid}", "", "its rules do not fit into this node's map: it stays pending")
            for uid in sorted(self.left_out)
        )
        return (*self.admission.errors(), *pods)

    def _leave_out(self, before: Cluster | None, taken: Cluster) -> bool:
        """Of the pods of this node that the compiler does not have yet, those of the namespace that has most; False
        where there are none. At a start, when it has none, only the newer half of them."""
        here = taken.settings.node
        known = before.pods if before is not None else Cluster().pods
        new = [pod for uid, pod in taken.pods.items() if uid not in known and here in ("", pod.node)]
        crowd = Counter(pod.namespace for pod in new)
        crowded = max(crowd, key=lambda name: (crowd[name], name), default=None)
        newest = sorted((p for p in new if p.namespace == crowded), key=lambda p: (p.created, p.uid), reverse=True)
        chosen = newest if before is not None else newest[: (len(newest) + 1) // 2]
        self.left_out |= {pod.uid for pod in chosen}
        return bool(chosen)

    def _without_left_out(self, cluster: Cluster) -> Cluster:
        if not self.left_out:
            return cluster
        pods = cluster.pods.mutate()
        for uid in self.left_out:
            pods.pop(uid, None)
        return replace(cluster, pods=pods.finish())
