"""Snapshots on their way to the compiler: what is too big is refused by name, and everything else goes on (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.compiler.admission import Admission
from agent.compiler.capacity import PODS
from agent.compiler.compiler import TOGETHER, Compiler
from agent.compiler.kinds import KINDS, holders_in_force, rows_by_holder
from agent.compiler.names import MOST_DEMANDS
from agent.compiler.registry import ROWS
from agent.compiler.shares import OF_NAMESPACE, RESERVE, beside_others, by_namespace, leaves_no_room, little
from agent.compiler.subjects import TERMS_HERE
from agent.errors import CapacityError, InvalidObject, TooMuch
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster
from agent.model.policy import PolicyRef
from agent.model.want import Delta, Want
from agent.sync.left_out import LeftOut

MOST_AT_ONCE = 65_536
"""Rows that a revision may add beside those that it replaces. Of more each kind is held by itself: in memory, too."""

NEVER = (
    "{n} of its different `tls` and entries of `http` allow nothing: {most} of each kind count in the policies of "
    "one pod, those of the cluster first, then by name"
)
OF_PODS = (ROWS, TERMS_HERE, PODS)
"""What is less with fewer pods of this node."""
CapacityCheck = Callable[[Want, Cluster], None]
"""Raises TooMuch where a revision does not fit, CapacityError where it is nobody's."""


@dataclass(slots=True)
class Intake:
    """`rows`: that fit into map `rules`; None: any number. The compiler may need an eighth more, because it
    estimates. One thread."""

    fits: CapacityCheck
    rows: int | None = None
    admission: Admission = field(default_factory=Admission)
    left_out: LeftOut = field(default_factory=LeftOut)
    _reserve: bool = True  # is room kept for those that have little
    _never_met: Mapping[PolicyRef, int] = field(default_factory=dict)

    def compiled(self, cluster: Cluster) -> tuple[Compiler, Cluster]:
        """A new compiler, and the snapshot that it took. Raises CapacityError."""
        compiler, taken, _ = self.steps(Compiler(), None, cluster, EVERYTHING)
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
        compiled from nothing, because old and new beside one another are too much. `before`: what the compiler
        took last; None: nothing. Raises CapacityError where nobody who came or changed is to blame."""
        still_out, given = self.left_out.state(), changes
        changes = self.left_out.again(cluster, changes)
        on_trial = changes != given
        self.left_out.newcomers(before, cluster, changes)
        admitted, changes = self.admission.admit(cluster, changes)
        taken = self.left_out.without(admitted)
        beside, self._reserve = before is not None, True
        while True:
            try:
                self._limit(compiler, beside=beside)
                deltas = compiler.steps(taken, changes)
                self._share_kinds(compiler, before, taken)
                self.fits(compiler.want, taken)
                self._keep_room(compiler)
            except TooMuch as found:
                if beside and (found.what == TOGETHER or (found.what == ROWS and found.limit != self.rows)):
                    compiler, beside = Compiler(), False
                    continue
                found = _of_rows(found, compiler) if found.what == ROWS and not found.needs else found
                compiler = self.recompiled(before) if before is not None else Compiler()
                beside = before is not None
                if on_trial and found.what != KINDS:  # nobody else pays for pods that were left out before
                    self.left_out, on_trial = still_out, False
                    self.left_out.newcomers(before, cluster, given)
                else:
                    self._make_room(found, before, cluster, taken)
                taken = self.left_out.without(self.admission.substituted(cluster))
                changes |= EVERYTHING
            else:
                self.admission.took(taken)
                self._never_met = compiler.never_met()
                return compiler, taken, deltas if beside or before is None else None

    def errors(self) -> tuple[InvalidObject, ...]:
        """What is refused now: objects by name, and pods; and what of policies nothing can meet."""
        never = (
            InvalidObject(str(ref), "spec", NEVER.format(n=n, most=MOST_DEMANDS))
            for ref, n in sorted(self._never_met.items())
        )
        return (*self.admission.errors(), *never, *self.left_out.errors())

    def _limit(self, compiler: Compiler, *, beside: bool) -> None:
        room = None if self.rows is None else self.rows * 9 // 8
        compiler.limit(room, MOST_AT_ONCE if beside else None, reserve=self._reserve)

    def _keep_room(self, compiler: Compiler) -> None:
        """Raises TooMuch where the rows leave none for namespaces that have little."""
        rows = len(compiler.want.rules)
        if self._reserve and self.rows is not None and rows > self.rows - self.rows // RESERVE:
            needs = compiler.row_needs()
            estimated = max(sum(needs.values()), 1)
            counted = {ref: need * rows // estimated for ref, need in needs.items()}
            if leaves_no_room(by_namespace(counted.items()), self.rows):
                raise TooMuch(ROWS, counted, self.rows)

    def _share_kinds(self, compiler: Compiler, before: Cluster | None, taken: Cluster) -> None:
        """Raises TooMuch where the kinds of one namespace's addresses take too many rows of everybody's."""
        if self.rows is not None and len(compiler.want.rules) > self.rows // OF_NAMESPACE:
            in_force = holders_in_force(before, taken)
            needs = rows_by_holder(compiler.want, taken, in_force)
            if beside_others(needs, self.rows, in_force):
                raise TooMuch(KINDS, needs, self.rows)

    def _refuse_kinds(self, found: TooMuch, before: Cluster | None, cluster: Cluster, taken: Cluster) -> None:
        over = beside_others(found.needs, found.limit, holders_in_force(before, taken))
        pods = {ref: each for ref, each in over.items() if ref.kind == "Pod"}
        self.left_out.of_kinds(cluster, pods)
        self.admission.refuse(cluster, {ref: each for ref, each in over.items() if ref not in pods}, KINDS)

    def _make_room(self, found: TooMuch, before: Cluster | None, cluster: Cluster, taken: Cluster) -> None:
        """Refuses an object, leaves out a pod, or gives the reserve away. Raises CapacityError where none is left."""
        if found.what == KINDS:
            self._refuse_kinds(found, before, cluster, taken)
            return
        if self.admission.too_much(cluster, found) or self._leave_out(found, before, taken):
            return
        if found.over or not self._reserve or sum(found.needs.values()) > found.limit:
            raise CapacityError(str(found)) from found
        self._reserve = False

    def _leave_out(self, found: TooMuch, before: Cluster | None, taken: Cluster) -> bool:
        """Of the pods of this node that the compiler does not have yet, those of the namespace that needs most, else
        of the one that has most of them; False where there are none. At a start, when it has none, only the newer
        half. Where all fits, and only the reserve is at stake, never of a namespace that has little."""
        here, left = taken.settings.node, by_namespace(found.needs.items())
        known = before.pods if before is not None else Cluster().pods
        new = [pod for uid, pod in taken.pods.items() if uid not in known and here in ("", pod.node)]
        if found.what not in OF_PODS:
            return False
        if not found.over and left.total() <= found.limit:
            new = [pod for pod in new if left[pod.namespace] > little(found.limit)]
        crowd = Counter(pod.namespace for pod in new)
        crowded = max(crowd, key=lambda name: (left[name], crowd[name], name), default=None)
        newest = sorted((p for p in new if p.namespace == crowded), key=lambda p: (p.created, p.uid), reverse=True)
        chosen = newest if before is not None else newest[: (len(newest) + 1) // 2]
        self.left_out.of_rules(chosen)
        return bool(chosen)


def _of_rows(found: TooMuch, compiler: Compiler) -> TooMuch:
    """Counted, not estimated: what fits is less by as much as the estimates were too high."""
    needs, rows = compiler.row_needs(), max(len(compiler.want.rules), 1)
    limit = found.limit * sum(needs.values()) // rows
    return TooMuch(ROWS, needs, limit, str(found), found.over)
