"""The only writer of the agent's maps: snapshots and folders come in, the kernel stays in step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent.abi.structs import ENDPOINT, folder_id, pack_folder
from agent.compiler.compiler import Compiler
from agent.errors import CapacityError
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, Pod
from agent.model.identity import Claim, PodUid
from agent.model.verdict import EndpointState
from agent.model.want import Assignment, Want
from agent.sync.allocate import IdentityNumbers
from agent.sync.deserted import Deserted
from agent.sync.endpoints import EndpointTable
from agent.sync.entries import pack_pending, unpack_index
from agent.sync.epochs import Epochs, Share
from agent.sync.intake import Intake
from agent.sync.plan import (
    Carrier,
    Map,
    Plan,
    add_endpoints,
    deletes_addresses,
    deletes_first,
    plan_delta,
    plan_whole,
    questioning,
    rules_first,
)
from agent.sync.seqlock import SeqLock


@dataclass(slots=True)
class Outcome:
    """What one step did: number of map writes; `refused`: why a revision was not taken."""

    writes: int = 0
    bumped: int = 0
    refused: str = ""
    gone: list[PodUid] = field(default_factory=list)


class Writer:
    """Owned by one thread. `maps` are the kernel's; after an error of theirs call `resync`."""

    def __init__(
        self,
        maps: Mapping[str, Map],
        numbers: IdentityNumbers,
        intake: Intake,
        claims: Mapping[PodUid, Claim] | None = None,
        entries: Mapping[str, int] | None = None,
    ) -> None:
        """`claims`: of this node's pods, as an agent before has kept them. `entries`: that each map holds."""
        self._maps, self._claims, self.entries = maps, claims or {}, dict(entries or {})
        self.intake, self.lock = intake, SeqLock()
        self.compiler = Compiler()
        adopted = {folder_id(k): v for k, v in maps["endpoints"].items()}
        self.endpoints = EndpointTable(numbers, adopted)
        self._epochs = Epochs(maps, self.endpoints)
        self.cluster = Cluster()
        self._without_pod: dict[PodUid, Assignment] = {}
        self._leaving: set[PodUid] = set()
        self._deserted = Deserted()
        self._orphans: frozenset[PodUid] = frozenset()  # folders without a pod, whose claim was kept
        self._missed = Changes()
        self._questioned: set[int] = set()  # slots, until take_questioned

    @property
    def want(self) -> Want:
        return self.compiler.want

    def start(self, cluster: Cluster, folders: Iterable[tuple[PodUid, int]]) -> Outcome:
        """The first snapshot, against whatever is in the maps. Nothing is deleted before all that is new is there.

        Of a snapshot that is not complete nothing is written: what was enforced before stays, until `update` brings
        one that is. Raises CapacityError; then nothing was written.
        """
        for uid, cgroup_id in folders:
            self.endpoints.add_folder(uid, cgroup_id, self.want.rulesets)
        if not cluster.complete:
            self._deserted.remember(cluster)
            self.cluster = cluster
            return self._carry_out(Plan())
        cluster = self._with_leaving(cluster, self._differing(cluster, EVERYTHING))
        self.compiler, self.cluster = self.intake.compiled(cluster)
        for uid, assignment in self.want.assignments.items():
            self.endpoints.assign(uid, assignment, self.want.rulesets)
        self.endpoints.prune_adopted()
        self.endpoints.hold_unexplained(self.want.rulesets)
        self.endpoints.bump_all()  # what was revoked while no agent looked, or as the last one died (P10)
        return self._carry_out(*self._whole(self.endpoints.replaced()))

    def update(self, cluster: Cluster, changes: Changes) -> Outcome:
        """The next snapshot. A revision that does not fit is refused whole, the one before stays in force.

        `changes` since the last snapshot, refused or not. The first complete one is compared with the maps.
        """
        if not self.cluster.complete:
            try:
                return self.start(cluster, ())
            except CapacityError as exc:
                return Outcome(refused=str(exc))
        changes |= self._missed
        changes |= Changes(pods=self._differing(cluster, changes))
        cluster = self._with_leaving(cluster, changes.pods)
        try:
            compiled = self.intake.steps(self._let_go_of_compiler(), self.cluster, cluster, changes)
        except CapacityError as exc:
            self.compiler = self.intake.recompiled(self.cluster)
            self._missed = changes
            return Outcome(refused=str(exc))
        self.compiler, self.cluster, deltas = compiled
        self._missed = Changes()
        if deltas is None or not all(map(self._fits, plans := [plan_delta(delta) for delta in deltas])):
            return self._replace()
        held = self._hold_back(self.endpoints.rendered(deltas[0].held))
        for uid, assignment in deltas[0].assignments.items():
            self.endpoints.assign(uid, assignment or self._without_pod.get(uid), self.want.rulesets)
        self.endpoints.hold_unexplained(self.want.rulesets)
        self.endpoints.bump(deltas[0].revoked)
        return self._carry_out(held, *plans)

    def _let_go_of_compiler(self) -> Compiler:
        """What it holds is large, and goes before another one is filled."""
        compiler, self.compiler = self.compiler, Compiler()
        return compiler

    def resync(self) -> Outcome:
        """Read the maps and bring them to what is wanted: after an error, or when in doubt.

        Before the first complete list, endpoints only: all else in the maps is an earlier agent's, and in force.
        """
        if not self.cluster.complete:
            self.endpoints.redo(())
            return self._carry_out(Plan())
        spoken = (unpack_index(key) for key, value in self._maps["nearby"].items() if any(value))
        have = {folder_id(key): value for key, value in self._maps["endpoints"].items()}
        self.endpoints.redo(have, spoken)
        return self._carry_out(*self._whole(self.endpoints.with_another_ruleset(have)))

    def _replace(self) -> Outcome:
        """What is wanted now, in place of whatever is in the maps."""
        before = dict(self.endpoints.rendered(self.endpoints.by_uid))
        for uid in dict.fromkeys((*self.want.assignments, *self.endpoints.by_uid)):
            self.endpoints.assign(uid, self._assignment(uid), self.want.rulesets)
        self.endpoints.hold_unexplained(self.want.rulesets)
        self.endpoints.redo(())
        return self._carry_out(*self._whole(self.endpoints.with_another_ruleset(before)))

    def _whole(self, replaced: Iterable[tuple[int, bytes]]) -> tuple[Plan, ...]:
        """The plans that bring the maps to what is wanted. `replaced`: the entries of endpoints that get another
        ruleset.

        Old and new are beside one another for a moment. Where a map has no room for that, rows of rulesets that end
        go first; where that is not enough, everything that goes, while no endpoint is judged.
        """
        whole = plan_whole(self.want, self._maps)
        held = self._hold_back(replaced)
        if self._fits(whole):
            return held, whole
        first = rules_first(whole, self.want.rulesets)
        if self._fits(whole):
            return held, first, whole
        held = self._hold_back((folder_id(key), value) for key, value in self._maps["endpoints"].items())
        self.endpoints.redo(())
        return held, first, deletes_first(whole), whole

    def _fits(self, plan: Plan) -> bool:
        return all(peak <= self.entries.get(name, peak) for name, peak in plan.peaks.items())

    def differing(self, *, whole: bool) -> dict[str, int]:
        """By map: how many entries are not what this agent has written. Reads `endpoints`, or all (`whole`).

        Before the first complete list all else in the maps is an earlier agent's.
        """
        found = {"endpoints": self.endpoints.differing({folder_id(k): v for k, v in self._maps["endpoints"].items()})}
        plan = plan_whole(self.want, self._maps) if whole and self.cluster.complete else Plan()
        counts = [(name, len(items)) for name, items in plan.upserts] + [(n, len(keys)) for n, keys in plan.deletes]
        if whole:
            counts += self._epochs.differing()
        for name, count in counts:
            found[name] = found.get(name, 0) + count
        return {name: count for name, count in found.items() if count}

    def assign_without_pod(self, uid: PodUid, assignment: Assignment) -> Outcome:
        """What is known of a pod that no snapshot has (L2a, L2c, first boot). The compiler's word wins."""
        self._without_pod[uid] = assignment
        if uid not in self.want.assignments:
            self.endpoints.assign(uid, assignment, self.want.rulesets)
        return self._carry_out(Plan())

    def add_folder(self, uid: PodUid, cgroup_id: int) -> Outcome:
        """A folder of a pod or of one of its containers."""
        if uid not in self.endpoints.by_uid and (known := self._assignment(uid)) is not None:
            self.endpoints.assign(uid, known, self.want.rulesets)
        self.endpoints.add_folder(uid, cgroup_id, self.want.rulesets)
        if uid in self._claims and uid not in self.cluster.pods:
            self._orphans |= {uid}
        return self._carry_out(Plan())

    def remove_folder(self, cgroup_id: int, now: float) -> None:
        """Its entries follow by `expire`, later (L4)."""
        self.endpoints.remove_folder(cgroup_id, now)

    def expire(self, now: float) -> Outcome:
        """Take out what left long enough ago."""
        gone = self.endpoints.expire(now)
        leaving = frozenset(self._leaving.intersection(gone))
        self._leaving -= leaving
        for uid in gone:
            self._without_pod.pop(uid, None)
        pods = self.cluster.pods
        for uid in leaving:
            pods = pods.delete(uid)
        if leaving:
            missed = self._missed  # of a refused revision: what is in force now does not show it
            outcome = self.update(replace(self.cluster, pods=pods), Changes(pods=leaving))
            self._missed |= missed
        else:
            outcome = self._carry_out(Plan())
        outcome.gone = gone
        return outcome

    def evicted(self, by_share: Counter[Share]) -> Outcome:
        """Entries of `flows` that were taken out, so that the kernel knows how much of each share is in use."""
        self._epochs.evicted(by_share)
        return Outcome()

    def take_questioned(self) -> tuple[int, ...]:
        """A folder of each endpoint whose verdicts any step has called into question since the last call.

        Their open connections are to be judged again (P10). After an error `resync` questions all.
        """
        slots, self._questioned = self._questioned, set()
        return self.endpoints.a_folder_of_each(slots)

    def question_all(self) -> None:
        """The programs did not judge for a while: no cached verdict is wrong, but connections may be open."""
        self._questioned.update(self.endpoints.by_slot)

    def pending(self) -> list[PodUid]:
        """Pods with a folder that nobody has explained yet; those found in the maps stay as they are (L5)."""
        return self.endpoints.pending()

    def counts(self) -> Counter[EndpointState]:
        """Endpoints by state."""
        return Counter(self.endpoints.state_of(e) for e in self.endpoints.by_uid.values() if e.folders)

    def _with_leaving(self, cluster: Cluster, uids: Iterable[PodUid]) -> Cluster:
        """Pods deleted in the API whose folder is still there keep identity and rules, but not their address (L4).

        `uids`: every pod that may be another one than in the snapshot before.
        """
        pods = self.cluster.pods.mutate()
        for uid in uids:
            pod = cluster.pods.get(uid)
            if pod is not None:
                self._leaving.discard(uid)
            else:
                pod = self._left(uid, cluster)
            if pod is not None:
                pods[uid] = pod
            else:
                pods.pop(uid, None)
        return self._deserted.held(self.cluster, replace(cluster, pods=pods.finish()))

    def _left(self, uid: PodUid, cluster: Cluster) -> Pod | None:
        """What stands for a pod that the API does not know (any more), while it has a folder here."""
        endpoint = self.endpoints.by_uid.get(uid)
        pod = self.cluster.pods.get(uid) or self._remembered(uid, cluster)
        if endpoint is None or not endpoint.folders or pod is None:
            return None
        self._leaving.add(uid)
        return replace(pod, finished=True)

    def _differing(self, cluster: Cluster, changes: Changes) -> frozenset[PodUid]:
        """Pods of which a snapshot may have something new."""
        found, self._orphans = changes.pods | self._orphans, frozenset()
        if not changes.everything_else:
            return found
        return found.union(cluster.pods, self.cluster.pods, self.endpoints.by_uid)

    def _remembered(self, uid: PodUid, cluster: Cluster) -> Pod | None:
        """A pod of which an agent before has kept the claim: the API has forgotten it, its folder is still there."""
        claim = self._claims.get(uid)
        if claim is None:
            return None
        node, namespace = cluster.settings.node, claim.identity.namespace
        return Pod(uid=uid, namespace=namespace, name="", claim=claim, labels=claim.labels, node=node)

    def _assignment(self, uid: PodUid) -> Assignment | None:
        return self.want.assignments.get(uid) or self._without_pod.get(uid)

    def _hold_back(self, entries: Iterable[tuple[int, bytes]]) -> Plan:
        """These entries of `endpoints` are pending until they get their new ruleset, because neither snapshot has
        what the old one allows for addresses as they will be. What has a flow goes on meanwhile.

        At adoption all that get another ruleset are: the maps have no rows of the old one for new addresses.
        """
        held = [
            (pack_folder(cgroup), pack_pending(value))
            for cgroup, value in entries
            if ENDPOINT.unpack(value)["state"] == EndpointState.MANAGED
        ]
        return Plan(endpoints=held, holds=True)

    def _carry_out(self, *plans: Plan) -> Outcome:
        """The steps of one revision: in one of them endpoints move, and what is revoked is revoked. Later ones take
        away what nothing leads to any more, and change no verdict.
        """
        ops = self.endpoints.take_ops()
        nearby = ops.nearby.union(*(self.endpoints.nearby_of(slot) for slot in ops.bumped))
        moves = next(plan for plan in plans if not plan.holds)
        add_endpoints(moves, ops)
        if deletes_addresses(moves):
            moves.questions = questioning(*self._epochs.renewed(ops.bumped, nearby))
        moves.closing = questioning(*self._epochs.renewed(ops.bumped, nearby))
        carrier = Carrier(self._maps, self.lock)
        for plan in plans:
            carrier.apply(plan)
        self._questioned |= ops.bumped
        return Outcome(
            writes=sum(plan.writes for plan in plans),
            bumped=len(ops.bumped),
        )
