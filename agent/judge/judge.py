"""The semantics, word for word and slowly: the oracle of the compiler's tests and of `policy explain`.

No classes, no numbers: it looks at every policy, pod and service each time it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from agent.judge.address import Facts, plain
from agent.judge.claims import Worth, worth_of
from agent.judge.demands import failure
from agent.judge.native import NativeCase
from agent.judge.packet import Packet
from agent.model.cluster import Address, Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.nearest import Lacks, Nearest
from agent.model.policy import (
    DefaultPosture,
    Demand,
    Entity,
    EntityPeer,
    Policy,
    Posture,
    Rule,
    RuleRef,
)
from agent.model.protocol import IpProtocol
from agent.model.request import Carried
from agent.model.verdict import Direction, DropReason, Verdict
from agent.semantics.builtin import AGENT_METRICS, NODE_TO_OWN_PODS, OBSERVED, baseline_ref
from agent.semantics.selecting import selects

OWN_LAYER, NATIVE_LAYER = "dagwall", "NetworkPolicy"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, its reason, the rule to name (None: no rule), and all rules that match.

    `layer` is the kind of policies that denies, where one does (P1). `note`: a sentence more. `demands`: it
    allows what meets any of these only.
    """

    verdict: Verdict
    reason: DropReason = DropReason.NONE
    rule: RuleRef | None = None
    denying: tuple[RuleRef, ...] = ()
    allowing: tuple[RuleRef, ...] = ()
    nearest: Nearest | None = None
    layer: str = ""
    note: str = ""
    final: bool = False  # no layer after the one that decided is asked
    demands: tuple[Demand, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedLayer:
    """All policies of one kind (P1); its twin for the compiler is agent/compiler/policy_layer.py.

    `decide`: of a case, with the policies in audit as if enforced, or without them. `last_resort`: asked only where
    no layer before has a rule for it.
    """

    name: str
    decide: Callable[[Case, bool], Decision]
    last_resort: bool = False


def judge(  # noqa: PLR0917  the order of lookup()
    cluster: Cluster, pod: Pod, direction: Direction, address: Address, protocol: int, port: int = 0,
    layers: tuple[JudgedLayer, ...] = (), names: frozenset[str] = frozenset(), carries: Carried | None = None,
) -> Decision:  # fmt: skip
    """What becomes of a packet of `pod`. `port` is the peer's for egress, the pod's own for ingress.

    `layers`: in place of LAYERS. `names`: by which the pod's identity knows the address. `carries`: what its
    connection does; None: nothing yet.
    """
    namespace = cluster.namespaces.get(pod.namespace)
    if namespace is None or not namespace.managed or _stays_in_pod(pod, plain(address)):
        return Decision(Verdict.ALLOW)
    worth = worth_of(cluster, pod.claim.identity)
    if worth.quarantined:
        return Decision(Verdict.DENY, DropReason.QUARANTINED, note=str(worth.contradiction))
    peer, chosen = Facts(cluster, address), tuple(_selected(cluster, pod, namespace))
    case = Case(cluster, pod, direction, peer, protocol, port, names, worth, chosen, layers or LAYERS, carries)
    return case.decision()


def _selected(cluster: Cluster, pod: Pod, namespace: Namespace) -> Iterator[Policy]:
    """Policies that select the pod, cluster policies first, then by name (P2)."""
    labels = dict(pod.claim.labels)
    for _, policy in sorted(cluster.policies.items()):
        if selects(policy, pod, labels, namespace):
            yield policy


def _stays_in_pod(pod: Pod, address: Address) -> bool:
    """P7. A finished pod's address may be another's by now."""
    own = address in pod.addresses and not pod.finished
    return not pod.host_network and (address.is_loopback or own)


@dataclass(frozen=True, slots=True)
class Case(Packet):
    """A packet, and all that has a word on it. `carries`: what its connection does; None: nothing yet."""

    worth: Worth
    selected: tuple[Policy, ...]
    layers: tuple[JudgedLayer, ...]
    carries: Carried | None

    @property
    def native(self) -> NativeCase:
        return NativeCase(self.cluster, self.pod, self.direction, self.peer, self.protocol, self.port)

    @property
    def attestation(self) -> Attestation:
        return max(self.worth.attestation, self.pod.claim.attestation)

    def decision(self) -> Decision:
        """P3: once by the enforced policies, once with those in audit as if enforced."""
        enforced = self._through(audited=False)
        if enforced.verdict is Verdict.DENY:
            return self._explained(enforced)
        wished = self._through(audited=True)
        if wished.verdict is Verdict.DENY:
            return self._explained(replace(wished, verdict=Verdict.AUDIT))
        return self._explained(enforced)

    def _through(self, *, audited: bool) -> Decision:
        """P1: every layer must let it pass. A rule of any layer counts more than dagwall's default posture."""
        outcome = Decision(Verdict.ALLOW, rule=OBSERVED)
        demands: tuple[Demand, ...] = ()
        for layer in self.layers:
            if layer.last_resort and outcome.rule != OBSERVED:
                continue
            said = layer.decide(self, audited)
            if said.verdict is Verdict.DENY or said.final:
                return said
            demands = demands or said.demands
            if outcome.rule == OBSERVED and said.rule is not None:
                outcome = said
        return replace(outcome, demands=demands)

    def native_decided(self, *, audited: bool) -> Decision:
        """NetworkPolicies have no posture of their own; the agent's `--posture audit` holds for every policy (P3)."""
        if self.from_host:
            return Decision(Verdict.ALLOW, rule=NODE_TO_OWN_PODS)  # P8
        allowing = [] if self.cluster.settings.audit_everything and not audited else self.native.allowing()
        if allowing:
            return Decision(Verdict.ALLOW, rule=allowing[0])
        if self.native.isolated() and (audited or not self.cluster.settings.audit_everything):
            return Decision(Verdict.DENY, self._unheard(), layer=NATIVE_LAYER, note=self.native.note())
        return Decision(Verdict.ALLOW)

    def _surely(self, policy: Policy) -> bool:
        """Does it select the pod for sure, so that its allow rules count (I1)?"""
        namespace, labels = self.peer.namespace(self.pod.namespace), dict(self.pod.claim.labels)
        return selects(policy, self.pod, labels, namespace, perhaps=False)

    def _enforced(self, policy: Policy) -> bool:
        return policy.posture is Posture.ENFORCE and not self.cluster.settings.audit_everything

    def own_decided(self, *, audited: bool) -> Decision:
        """Dagwall's own kinds (P2)."""
        policies = [policy for policy in self.selected if audited or self._enforced(policy)]
        for policy in policies:
            for rule in policy.deny:
                if self.denies(rule):
                    named = RuleRef(policy.ref, rule.name)
                    return Decision(Verdict.DENY, DropReason.DENY_RULE, named, layer=OWN_LAYER)
        if self.from_host:
            return Decision(Verdict.ALLOW, rule=NODE_TO_OWN_PODS)  # P8
        by_address = replace(self, names=frozenset())
        plain = chain(by_address._allowing(policies), self._baseline(), self._allowing(policies))
        allowing = next(plain, None)
        if allowing is not None:
            return Decision(Verdict.ALLOW, rule=allowing)
        asking = dict(chain(by_address._asking(policies), self._asking(policies)))
        if asking:
            return self._held(asking)
        if self._isolated(policies, audited=audited):
            return Decision(Verdict.DENY, self._unheard(), layer=OWN_LAYER)
        if self._shows_who_talks_to_whom() and (audited or not self.cluster.settings.audit_everything):
            note = "metrics of dagwall's agents need a rule that allows them"
            return Decision(Verdict.DENY, DropReason.DENY_RULE, AGENT_METRICS, layer=OWN_LAYER, note=note)
        return Decision(Verdict.ALLOW, rule=OBSERVED)

    def _shows_who_talks_to_whom(self) -> bool:
        """S3"""
        at, port = (self.direction, self.protocol, self.port), self.cluster.settings.metrics_port
        return bool(port) and at == (Direction.EGRESS, IpProtocol.TCP, port) and self.has(EntityPeer(Entity.NODE))

    def _unheard(self) -> DropReason:
        """P15"""
        return DropReason.UNKNOWN_PEER if self.peer.is_unknown() else DropReason.NO_RULE

    def _isolated(self, policies: list[Policy], *, audited: bool) -> bool:
        """P2, P5. The agent's `--posture audit` spares no default either: nothing is denied under it."""
        settings, namespace = self.cluster.settings, self.peer.namespace(self.pod.namespace)
        default = namespace.default_posture or settings.default_posture
        if default is DefaultPosture.DENY and (audited or not settings.audit_everything):
            return True
        return any(policy.speaks_about(self.direction) is not None for policy in policies)

    def _allowing(self, policies: Iterable[Policy]) -> Iterator[RuleRef]:
        """Rules that allow it, whatever it carries."""
        return (ref for ref, _ in self._matching(policies, asking=False))

    def _asking(self, policies: Iterable[Policy]) -> Iterator[tuple[RuleRef, tuple[Demand, ...]]]:
        """Rules that allow it with what they demand."""
        return ((ref, rule.demands) for ref, rule in self._matching(policies, asking=True))

    def _matching(self, policies: Iterable[Policy], *, asking: bool) -> Iterator[tuple[RuleRef, Rule]]:
        """Rules with `tls` or `http`, or those without. Attestation counts for allow rules only (I4)."""
        for policy in policies:
            if policy.attestation <= self.attestation and self._surely(policy):
                for rule in policy.speaks_about(self.direction) or ():
                    if bool(rule.demands) == asking and self.allows(rule):
                        yield RuleRef(policy.ref, rule.name), rule

    def _held(self, asking: dict[RuleRef, tuple[Demand, ...]]) -> Decision:
        """Only rules with `tls` or `http` allow it: what is carried must be what one of them demands."""
        first, demands = next(iter(asking)), tuple(dict.fromkeys(each for some in asking.values() for each in some))
        if self.carries is None:
            return Decision(Verdict.ALLOW, rule=first, demands=demands)
        reason = failure(demands, self.carries)
        if reason is DropReason.NONE:
            return Decision(Verdict.ALLOW, rule=first)
        return Decision(Verdict.DENY, reason, first, layer=OWN_LAYER)

    def _baseline(self) -> Iterator[RuleRef]:
        namespace = self.peer.namespace(self.pod.namespace)
        entities = self.cluster.settings.baseline if namespace.baseline is None else namespace.baseline
        for entity in entities:
            if self.direction is Direction.EGRESS and self.through(EntityPeer(entity), None):
                yield baseline_ref(entity.value)

    def _explained(self, decision: Decision) -> Decision:
        denying = [RuleRef(p.ref, rule.name) for p in self.selected for rule in p.deny if self.denies(rule)]
        asking = (ref for ref, _ in self._asking(self.selected))
        allowing = (*self._allowing(self.selected), *self._baseline(), *asking, *self.native.allowing())
        nearest = None
        if decision.layer == NATIVE_LAYER:
            nearest = self.native.nearest()
        elif decision.layer and decision.reason is not DropReason.DENY_RULE:  # no rule helps against a deny rule
            nearest = self._nearest()
        note = decision.note or str(self.worth.contradiction or "")
        return replace(decision, denying=tuple(denying), allowing=allowing, nearest=nearest, note=note)

    def _nearest(self) -> Nearest | None:
        """By what they lack: the attestation only, the port, the peer. Rules on other peers only are not near."""
        found: list[tuple[int, Nearest]] = []
        for policy in self.selected:
            for rule in policy.speaks_about(self.direction) or ():
                lacking = self._lacks(policy, rule)
                if lacking is not None:
                    found.append((lacking[0], Nearest(RuleRef(policy.ref, rule.name), lacking[1])))
        return min(found, key=lambda each: each[0])[1] if found else None

    def _lacks(self, policy: Policy, rule: Rule) -> tuple[int, Lacks] | None:
        """How far the rule is from allowing, and by what; None: it allows, or is about other peers."""
        if self.allows(rule):
            if policy.attestation > self.attestation:
                return 0, Lacks(attestation=policy.attestation)
            if not self._surely(policy):
                return 0, Lacks(exact_id=True)
            return (1, Lacks(enforcement=True)) if not self._enforced(policy) else None
        if rule.peers is None and self.peer.is_metadata:
            return 2, Lacks(metadata=True)
        if rule.peers is None or any(self.has(peer) for peer in rule.peers):
            return 2, Lacks(protocol=self.protocol, port=self.port)
        if not any(self.peer.left_out_of(peer) for peer in rule.peers):
            return None
        left_out = Lacks(left_out=self.peer.address)
        return (
            (3, left_out) if self.at(rule.ports) else (4, replace(left_out, protocol=self.protocol, port=self.port))
        )


LAYERS = (
    JudgedLayer(OWN_LAYER, lambda case, audited: case.own_decided(audited=audited)),
    JudgedLayer(NATIVE_LAYER, lambda case, audited: case.native_decided(audited=audited)),
)
"""Kinds of policies, in the order in which they are asked."""
