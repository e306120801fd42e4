"""TaskNetworkPolicy and ClusterTaskNetworkPolicy, dagwall.io/v1alpha1, into model.policy.Policy.

Strict: what is unknown, ambiguous or cannot be judged by this build is an error, never ignored (P17, P18).
"""

from __future__ import annotations

from dataclasses import replace

from agent.model.identity import Attestation, Kind
from agent.model.policy import CidrPeer, Peer, Policy, PolicyRef, PortMatch, Posture, Rule, Subject
from agent.model.verdict import Direction
from agent.parse.bounds import refuse_excess
from agent.parse.faults import Faults
from agent.parse.fields import Field
from agent.parse.http import parse_http, secured_tunnels
from agent.parse.peer_kinds import parse_peer
from agent.parse.peers import Scope, parse_port
from agent.parse.selectors import parse_ids, parse_selector, parse_subdomain
from agent.parse.tls import parse_tls
from agent.text import printable

API_VERSION = "dagwall.io/v1alpha1"
NAMESPACED_KIND = "TaskNetworkPolicy"
CLUSTER_KIND = "ClusterTaskNetworkPolicy"
KINDS = (NAMESPACED_KIND, CLUSTER_KIND)

_PEERS = {Direction.EGRESS: "to", Direction.INGRESS: "from"}
_DIRECTIONS = {"egress": Direction.EGRESS, "ingress": Direction.INGRESS}
_SPEC = ("subject", "attestation", "posture", "egress", "ingress", "deny", "rawSockets")
_SUBJECT = ("serviceAccounts", "dagIds", "taskIds", "kinds", "podSelector")
ATTESTATIONS = {level.name.lower(): level for level in Attestation}


def parse_policy(root: Field) -> Policy:
    """One policy object. Raises InvalidObject."""
    root.mapping("apiVersion", "kind", "metadata", "spec", "status")
    if root.child("apiVersion").string() != API_VERSION:
        raise root.child("apiVersion").error(f"must be {API_VERSION}, not {root.child('apiVersion').value!r}")
    kind = root.child("kind").string()
    if kind not in KINDS:
        raise root.child("kind").error(f"must be {' or '.join(KINDS)}, not {kind[:60]!r}")
    scope = _scope(root.child("metadata").child("namespace"), kind)
    ref = PolicyRef(scope.namespace or "", kind, parse_subdomain(root.child("metadata").child("name")))
    spec = root.child("spec")
    if spec.absent:
        raise spec.error("must be given")
    policy = _read_spec(ref, spec, scope)
    _refuse_duplicates(spec, policy)
    _refuse_excess(spec, policy)
    return policy


def _read_spec(ref: PolicyRef, spec: Field, scope: Scope) -> Policy:
    """Every part of it, each rule by itself, so that all faults are reported at once."""
    faults = Faults()
    faults.read(lambda: spec.mapping(*_SPEC), spec.mapping())
    policy = Policy(
        ref=ref,
        subject=faults.read(lambda: _subject(spec.child("subject"), cluster=scope.namespace is None), Subject()),
        egress=faults.read(lambda: _rules(spec, "egress", scope, faults), None),
        ingress=faults.read(lambda: _rules(spec, "ingress", scope, faults), None),
        deny=faults.read(lambda: _denials(spec.child("deny"), scope, faults), ()),
        posture=faults.read(lambda: spec.child("posture").choice(Posture, Posture.ENFORCE), Posture.ENFORCE),
        attestation=faults.read(lambda: _attestation(spec.child("attestation")), Attestation.CLAIMED),
        raw_sockets=faults.read(lambda: spec.child("rawSockets").boolean(default=False), False),  # noqa: FBT003
    )
    faults.report()
    return policy


def _scope(namespace: Field, kind: str) -> Scope:
    if kind == CLUSTER_KIND:
        if not namespace.absent:
            raise namespace.error(f"must be absent: {CLUSTER_KIND} is cluster-scoped")
        return Scope(None)
    if namespace.absent:
        raise namespace.error(f"must be given: {NAMESPACED_KIND} is namespaced")
    return Scope(parse_subdomain(namespace))


def _subject(field: Field, *, cluster: bool) -> Subject:
    if not cluster and field.has("namespaceSelector"):
        raise field.child("namespaceSelector").error(f"is for {CLUSTER_KIND} only; this policy selects its namespace")
    field.mapping(*_SUBJECT, *(["namespaceSelector"] if cluster else []))
    accounts, kinds = field.child("serviceAccounts"), field.child("kinds")
    pods, namespaces = field.child("podSelector"), field.child("namespaceSelector")
    for listed in (accounts, kinds):
        if listed.value == []:
            raise listed.error("an empty list reads both ways; leave the field out to select all")
    return Subject(
        service_accounts=tuple(dict.fromkeys(parse_subdomain(item) for item in accounts.optional_items())),
        dag_ids=parse_ids(field.child("dagIds")),
        task_ids=parse_ids(field.child("taskIds")),
        kinds=tuple(dict.fromkeys(item.choice(Kind) for item in kinds.optional_items())),
        pod_selector=None if pods.absent else parse_selector(pods),
        namespace_selector=None if namespaces.absent else parse_selector(namespaces),
    )


def _attestation(field: Field) -> Attestation:
    level = ATTESTATIONS.get(field.string("claimed"))
    if level is None:
        raise field.error(f"must be one of {', '.join(ATTESTATIONS)}, not {field.value[:60]!r}")
    return level


def _rules(spec: Field, key: str, scope: Scope, faults: Faults) -> tuple[Rule, ...] | None:
    """The allow rules of one direction; None where the policy does not speak about it."""
    if not spec.has(key):
        return None
    direction = _DIRECTIONS[key]
    return faults.read_each(spec.child(key).items(), lambda item, i: _rule(item, f"{key}[{i}]", direction, scope))


def _rule(item: Field, default_name: str, direction: Direction, scope: Scope) -> Rule:
    peers = _PEERS[direction]
    item.mapping("name", "ports", peers, "tls", "http")
    where = replace(scope, names=direction is Direction.EGRESS)
    found, ports = _peers(item, peers, where), _ports(item)
    http = parse_http(item, direction, found, ports)
    tls = parse_tls(item, direction, None if http else found, ports)
    if tls is not None and http:
        http = secured_tunnels(item.child("tls"), tls, http)
        tls = None
    return Rule(_name(item, default_name), direction, found, ports, tls=tls, http=http)


def _denials(field: Field, scope: Scope, faults: Faults) -> tuple[Rule, ...]:
    return faults.read_each(field.optional_items(), lambda item, i: _deny(item, i, scope))


def _deny(item: Field, i: int, scope: Scope) -> Rule:
    item.mapping("name", "reason", "direction", "to", "from", "ports")
    given = [key for key in ("to", "from") if item.has(key)]
    stated = item.child("direction")
    if len(given) > 1:
        raise item.error("must have to or from, not both; write two entries")
    if not given and stated.absent:
        raise item.error("must have to or from, or direction (egress, ingress) for every peer")
    if not stated.absent and stated.value not in _DIRECTIONS:
        raise stated.error(f"must be egress or ingress, not {str(stated.value)[:60]!r}")
    meant = Direction.EGRESS if given == ["to"] else Direction.INGRESS
    direction = meant if stated.absent else _DIRECTIONS[stated.string()]
    if given and direction is not meant:
        raise stated.error(f"contradicts {given[0]}")
    return Rule(
        name=_name(item, f"deny[{i}]"),
        direction=direction,
        peers=_peers(item, _PEERS[direction], scope),
        ports=_ports(item),
        reason=printable(item.child("reason").string("")),
    )


def _name(item: Field, default: str) -> str:
    return default if item.child("name").absent else parse_subdomain(item.child("name"))


def _peers(item: Field, key: str, scope: Scope) -> tuple[Peer, ...] | None:
    if not item.has(key):
        return None
    peers = tuple(dict.fromkeys(parse_peer(entry, scope) for entry in item.child(key).items()))
    if not peers:
        raise item.child(key).error("an empty list reads both ways; leave the field out to mean every peer")
    return peers


def _ports(item: Field) -> tuple[PortMatch, ...] | None:
    field = item.child("ports")
    if not item.has("ports"):
        return None
    ports = tuple(dict.fromkeys(parse_port(entry) for entry in field.items()))
    if not ports:
        raise field.error("an empty list reads both ways; leave the field out to mean every port")
    return ports


def _refuse_duplicates(spec: Field, policy: Policy) -> None:
    seen: dict[str, str] = {}
    for where, rule in policy.rules():
        if rule.name in seen:
            raise Field(spec.obj, f"spec.{where}.name", None).error(
                f"{rule.name!r} is the name of spec.{seen[rule.name]} already"
            )
        seen[rule.name] = where


def _refuse_excess(spec: Field, policy: Policy) -> None:
    """A server name counts as a peer, and so does an entry of `http`."""
    rules = [rule for _, rule in policy.rules()]
    peers = (peer for rule in rules for peer in rule.peers or ())
    refuse_excess(
        spec,
        len(rules),
        sum(1 + len(peer.excluded) if isinstance(peer, CidrPeer) else 1 for peer in peers)
        + sum(len(rule.tls.names) if rule.tls is not None else len(rule.http) for rule in rules),
        sum(len(rule.ports or ()) for rule in rules),
    )
