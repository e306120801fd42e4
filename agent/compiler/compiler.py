"""The compiler: successive snapshots in, Want and what changed in it out. Whole and incremental are one code.

Policies, bindings, namespaces, nodes and settings cost the work of the cluster. A pod, a service or an endpoint slice
costs the work of its own addresses: their atoms, hence classes, and rows only where a class or a ruleset is new.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from agent.compiler.addresses import NOTHING, Addresses, closed_prefixes
from agent.compiler.atoms import AtomId, AtomTable, BlockAtom, CidrAtom, Members, PerhapsTasks, ServiceAtom
from agent.compiler.bindings import Bindings
from agent.compiler.ledger import ChangeLog
from agent.compiler.names import name_nodes
from agent.compiler.needs import MEMBERSHIPS, places
from agent.compiler.peerpods import PeerPods
from agent.compiler.policy_layer import LayerOf
from agent.compiler.prefixes import Lpm, compressed
from agent.compiler.refs import RuleRefs
from agent.compiler.registry import Registry
from agent.compiler.revoking import Moves, Transition
from agent.compiler.rulesets import RulesetContent
from agent.compiler.services import ServiceAtoms
from agent.compiler.shares import RESERVE, by_namespace, leaves_no_room
from agent.compiler.subjects import LAYERS, TERMS_HERE, Selecting, Subjects
from agent.compiler.terms import AtNamedPort, AtService, Term
from agent.errors import TooMuch
from agent.model.changes import EVERYTHING, Changes, between
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import PodUid
from agent.model.network_policy import LivePodPeer
from agent.model.policy import CidrPeer, PodPeer, PolicyRef, RuleRef, TaskPeer
from agent.model.verdict import EndpointState
from agent.model.want import Assignment, Classes, Delta, Host, NameNode, Prefix, RuleId, RulesetId, Want

K = TypeVar("K", bound=Hashable)
NO_RULESET = RulesetId(0)
MOST_TERMS = 150_000
"""In all contents together."""
_SIZED = ("peers", "hosts", "names", "servers", "parts", "rules")
TOGETHER = "places of CIDRs in one another, of two snapshots"


def whole(cluster: Cluster) -> Want:
    """Want for one snapshot, from nothing."""
    compiler = Compiler()
    compiler.update(cluster)
    return compiler.want


class Compiler:
    """Keeps Want in step with snapshots. One thread calls `update`."""

    def __init__(self, layers: tuple[LayerOf, ...] = LAYERS) -> None:
        """`layers`: kinds of policies, in the order in which they are asked."""
        self.want = Want()
        self._refs = RuleRefs()
        self._layers = layers
        self._table = AtomTable()
        self._peers, self._hosts = ChangeLog(self.want.peers), ChangeLog(self.want.hosts)
        self._names, self._servers = ChangeLog(self.want.names), ChangeLog(self.want.servers)
        self._parts = ChangeLog(self.want.parts)
        self._rules = ChangeLog(self.want.rules)
        self._rulesets, self._assignments = ChangeLog(self.want.rulesets), ChangeLog(self.want.assignments)
        self._registry = Registry(self._table, self._refs, self._rules, self._rulesets, self._servers, self._parts)
        self._cluster: Cluster | None = None
        self._prefix_members: dict[Prefix, Members] = {}
        self._host_members: dict[Host, Members] = {}
        self._name_members: dict[NameNode, Members] = {}
        self._around: Lpm[Members] = Lpm({})
        self._contents: dict[PodUid, RulesetContent] = {}
        self._terms: tuple[Term, ...] = ()
        self._terms_limited = self._reserve = False
        self._old_classes: list[Members] = []
        self._old_contents: list[RulesetContent] = []
        self._asked: set[AtomId] = set()
        self._subjects: Subjects
        self._bindings: Bindings
        self._addresses: Addresses

    @property
    def rule_refs(self) -> Mapping[RuleId, RuleRef]:
        """Names of the rules that Want numbers, and of those that it numbered lately."""
        return self._refs.names

    def limit(self, room: int | None, at_once: int | None = None, *, reserve: bool = True) -> None:
        """What may need more rows (see Registry), or more terms, raises TooMuch from now on; then this compiler is of
        no use any more. With `at_once`, so does what is too much beside the snapshot before; with `reserve`, what
        leaves no terms for namespaces that have little."""
        self._registry.room, self._registry.at_once = room, at_once
        self._terms_limited, self._reserve = room is not None, reserve

    def row_needs(self) -> Mapping[PolicyRef, int]:
        """By policy: most rows that it can need."""
        return self._registry.needs()

    def never_met(self) -> Mapping[PolicyRef, int]:
        """By policy: how many of its `tls` and entries of `http` nothing can meet: its pods have too many."""
        return self._registry.never_met()

    def update(self, cluster: Cluster, changes: Changes | None = None) -> Delta:
        """Takes in a snapshot. `changes` names at least all that is different from the last one; None: finds out.

        Want is changed in place; the Delta has the changes.
        """
        revoked = self._take_in(cluster, changes)[0].revoked
        delta = self._delta(lambda tracked: tracked.delta())
        delta.revoked = revoked
        self._commit_all()
        return delta

    def steps(self, cluster: Cluster, changes: Changes | None = None) -> tuple[Delta, ...]:
        """The same in steps, for a kernel that answers in between: what comes, what moves, what goes.

        Rulesets of both snapshots have rows for the addresses and ports that both ask about; then addresses forget
        what only the old one asked; then the old rulesets go. No lookup falls between old and new meanwhile.
        """
        deltas = self._take_in(cluster, changes)
        self._commit_all()
        return deltas

    def _take_in(self, cluster: Cluster, changes: Changes | None) -> tuple[Delta, ...]:
        if self._cluster is None:
            changes = EVERYTHING
        elif changes is None:
            changes = between(self._cluster, cluster)
        self._cluster = cluster
        old_terms = self._terms
        if changes.everything_else:
            transitions = self._rebuild(cluster)
            uids: set[PodUid] = self.want.assignments.keys() | set(cluster.pods)
        else:
            stale = self._addresses.apply(cluster, changes.pods, changes.services, changes.slices)
            transitions, uids = self._move_hosts(stale, self._around), set(changes.pods)
        self._check_terms(cluster, uids)
        left = {uid: self._contents[uid] for uid in uids if uid in self._contents}
        for uid in uids:
            self._assign(cluster, uid)
        came = set(transitions)
        self._registry.emit()
        survivors = dict(self._registry.survivors())
        deltas = [self._part()]
        if not set(old_terms) <= set(self._terms):
            transitions |= self._index(cluster, self._terms)
            self._registry.emit()
            deltas.append(self._part())
        self._retire()
        self._registry.emit()
        deltas.append(self._part())
        deltas[0].revoked = self._revoked(survivors, transitions)
        deltas[0].held = self._held(left, came)
        if changes.everything_else or self._table.crowded:
            self._table.retain(self._registry.live_atoms() | self._asked)
        return tuple(deltas)

    def _held(self, left: Mapping[PodUid, RulesetContent], transitions: set[Transition]) -> set[PodUid]:
        """Of endpoints that left these contents for others: see Delta. Coming addresses move before endpoints do."""
        moved = {uid: old for uid, old in left.items() if self._contents.get(uid) != old}
        olds = set(moved.values())
        asked = set[Hashable]().union(*(old.index_keys() for old in olds))
        moves = Moves(transitions, self._table, asked)
        unsafe = {old for old in olds if moves.allow(old)}
        return {uid for uid, old in moved.items() if old in unsafe}

    def _revoked(self, survivors: Mapping[RulesetContent, RulesetId], transitions: set[Transition]) -> set[RulesetId]:
        """Of rulesets that both snapshots have, those that lose something by what addresses have become."""
        moves = Moves(transitions, self._table, self._registry.rulesets_by_key)
        near = (
            survivors.keys() if moves.seen_by_all else moves.near(self._registry.rulesets_by_key) & survivors.keys()
        )
        return {survivors[each] for each in near if self._registry.is_live(each) and moves.revoke(each)}

    def _part(self) -> Delta:
        delta = self._delta(lambda tracked: tracked.part())
        self._registry.commit()
        return delta

    def _retire(self) -> None:
        """Lets go of what the snapshot before had."""
        for members in self._old_classes:
            self._registry.release_class(members)
        for content in self._old_contents:
            self._registry.release_ruleset(content)
        self._old_classes.clear()
        self._old_contents.clear()

    def _rebuild(self, cluster: Cluster) -> set[Transition]:
        """Lowers all policies anew; addresses are indexed by what the old ones and the new ones ask."""
        self._bindings = Bindings(cluster)
        self._subjects = Subjects(cluster, self._table, self._layers)
        old, self._terms = self._terms, tuple(self._subjects.terms())
        self._check_places(self._terms, old)
        return self._index(cluster, (*self._terms, *old))

    def _check_places(self, terms: tuple[Term, ...], old: tuple[Term, ...]) -> None:
        """What two snapshots ask of addresses each may be little, and very much together."""
        atoms, before = _asked_atoms(terms), _asked_atoms(old)
        if self._registry.at_once is None or not old or atoms == before:
            return
        cidrs = [self._table.atoms[n] for n in atoms | before if n in self._table.atoms]
        found = places(p for atom in cidrs if isinstance(atom, CidrAtom | BlockAtom) for p in atom.peers)
        if found > MEMBERSHIPS:
            raise TooMuch(TOGETHER, {}, MEMBERSHIPS)

    def _index(self, cluster: Cluster, terms: tuple[Term, ...]) -> set[Transition]:
        """Indexes all addresses by what these terms ask; numbers stay with their contents."""
        backends = self._subjects.judges_backends
        self._addresses = _addresses(cluster, list(terms), self._table, self._bindings, backends=backends)
        self._asked = _asked_atoms(terms)
        self._move_names(name_nodes({number: self._table.atoms.get(number) for number in self._asked}))
        old = self._around
        transitions = self._move_prefixes(dict(compressed(closed_prefixes(self._addresses.prefixes))))
        return transitions | self._move_hosts(self._addresses.hosts() | self._host_members.keys(), old)

    def _move_prefixes(self, new: dict[Prefix, Members]) -> set[Transition]:
        """Two prefix tables differ for an address only if they differ at the longest prefix of either around it."""
        old, self._prefix_members = self._prefix_members, new
        was, self._around = self._around, Lpm(new)
        transitions: set[Transition] = set()
        for prefix in old.keys() | new.keys():
            before, after = old.get(prefix), new.get(prefix)
            if before == after:
                continue
            self._put_class(self._peers, prefix, before, after)
            host, length = prefix
            transitions.add((was.get(host, NOTHING, length), self._around.get(host, NOTHING, length)))
        return transitions

    def _move_names(self, new: dict[NameNode, Members]) -> None:
        """No ruleset that both snapshots have sees a name move: the patterns that it asks about stay in all nodes
        that they match, so there is no Transition."""
        old, self._name_members = self._name_members, new
        for node in old.keys() | new.keys():
            before, after = old.get(node), new.get(node)
            if before == after:
                continue
            self._put_class(self._names, node, before, after)

    def _move_hosts(self, hosts: Iterable[Host], was: Lpm[Members]) -> set[Transition]:
        """`was`: the prefixes before this step."""
        transitions: set[Transition] = set()
        for host in hosts:
            before, after = self._host_members.get(host), self._addresses.members(host)
            if before == after:
                continue
            if after is None:
                del self._host_members[host]
            else:
                self._host_members[host] = after
            self._put_class(self._hosts, host, before, after)
            old = was.get(host, NOTHING) if before is None else before
            transitions.add((old, self._around.get(host, NOTHING) if after is None else after))
        return transitions

    def _put_class(
        self, written: ChangeLog[K, Classes], key: K, before: Members | None, after: Members | None
    ) -> None:
        """What was there keeps its class until this snapshot's last step."""
        if after is not None:
            self._registry.acquire_class(after)
        if before is not None:
            self._old_classes.append(before)
        written.put(key, None if after is None else self._registry.classes(after))

    def _check_terms(self, cluster: Cluster, uids: Iterable[PodUid]) -> None:
        """Before the contents are made: each holds all terms of all its policies."""
        little = MOST_TERMS - MOST_TERMS // RESERVE
        if not self._terms_limited or self._subjects.cost(self._selecting(cluster, uids)) <= little:
            return
        needs = self._subjects.needs(self._selecting(cluster, cluster.pods))
        total = needs.total()
        if total > MOST_TERMS or (self._reserve and leaves_no_room(by_namespace(needs.items()), MOST_TERMS)):
            raise TooMuch(TERMS_HERE, needs, MOST_TERMS)

    def _selecting(self, cluster: Cluster, uids: Iterable[PodUid]) -> Iterator[Selecting]:
        """Those of these pods that have a ruleset, with what it follows from."""
        for uid in uids:
            pod = cluster.pods.get(uid)
            namespace = cluster.namespaces.get(pod.namespace) if pod is not None else None
            if (
                pod is None
                or namespace is None
                or not namespace.managed
                or cluster.settings.node not in ("", pod.node)
            ):
                continue
            standing = self._bindings.standing(pod.claim)
            if not standing.quarantined:
                yield pod, namespace, standing.attestation

    def _assign(self, cluster: Cluster, uid: PodUid) -> None:
        """Every pod of this node is an endpoint; those of managed namespaces have a ruleset (I3).

        A pod whose namespace is not known is none: it stays what it was, or pending (L2).
        """
        pod, before = cluster.pods.get(uid), self._contents.pop(uid, None)
        assignment = None
        if pod is not None and cluster.settings.node in ("", pod.node):
            namespace = cluster.namespaces.get(pod.namespace)
            if namespace is not None and namespace.managed:
                assignment = self._managed(pod, namespace)
            elif namespace is not None:
                identity = pod.claim.identity
                assignment = Assignment(identity, EndpointState.UNMANAGED, NO_RULESET, pod.host_network)
        if before is not None:
            self._old_contents.append(before)
        self._assignments.put(uid, assignment)

    def _managed(self, pod: Pod, namespace: Namespace) -> Assignment:
        """A quarantined pod needs no ruleset: nothing of it is allowed (I5)."""
        standing = self._bindings.standing(pod.claim)
        state, ruleset = EndpointState.QUARANTINED, NO_RULESET
        if not standing.quarantined:
            content = self._contents[pod.uid] = self._subjects.content(pod, namespace, standing.attestation)
            state, ruleset = EndpointState.MANAGED, self._registry.acquire_ruleset(content)
        return Assignment(
            pod.claim.identity,
            state,
            ruleset,
            pod.host_network,
            () if pod.finished or pod.host_network else pod.addresses,
            standing.attestation,
            standing.binding,
            standing.contradiction,
            self._subjects.selecting(pod, namespace, standing.attestation),
        )

    def _delta(self, of: Callable[[ChangeLog[Any, Any]], dict[Any, Any]]) -> Delta:
        return Delta(
            peers=of(self._peers),
            hosts=of(self._hosts),
            names=of(self._names),
            servers=of(self._servers),
            parts=of(self._parts),
            rules=of(self._rules),
            rulesets=of(self._rulesets),
            assignments=of(self._assignments),
            sizes={name: len(getattr(self.want, name)) for name in _SIZED},
        )

    def _commit_all(self) -> None:
        addresses = (self._peers, self._hosts, self._names, self._servers, self._parts)
        for tracked in (*addresses, self._rules, self._rulesets, self._assignments):
            tracked.commit()


def _asked_atoms(terms: Iterable[Term]) -> set[AtomId]:
    return {t.atom for t in terms if not isinstance(t, AtService)}


def _addresses(
    cluster: Cluster, terms: list[Term], table: AtomTable, bindings: Bindings, *, backends: bool
) -> Addresses:
    """An index that knows what these terms ask about."""
    destinations = (d.peer for d in cluster.settings.airflow)
    own = {table.number(CidrAtom((peer,), base=True)) for peer in destinations if isinstance(peer, CidrPeer)}
    asked = {number: table.atoms[number] for number in _asked_atoms(terms) | own if number in table.atoms}
    pods = PeerPods(table, cluster.namespaces, bindings.trusts)
    pods.ask(atom for atom in asked.values() if isinstance(atom, PodPeer | TaskPeer | LivePodPeer | PerhapsTasks))
    pods.port_names.update((t.protocol, t.name) for t in terms if isinstance(t, AtNamedPort))
    services = {t.service for t in terms if isinstance(t, AtService) and t.service is not None}
    services |= {atom.service for atom in asked.values() if isinstance(atom, ServiceAtom)}
    cidrs = [(number, atom) for number, atom in asked.items() if isinstance(atom, CidrAtom | BlockAtom)]
    return Addresses(cluster, cidrs, pods, ServiceAtoms(table, cluster, services), backends=backends)
