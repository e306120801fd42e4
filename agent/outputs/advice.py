"""What to do next, in the words of a colleague. English for the steps of agent/outputs/steps.py. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from typing_extensions import assert_never

from agent.model.flow import Denial, FailedLookup, Outcome, PeerKind, PeerName
from agent.model.protocol import WITH_PORTS
from agent.model.verdict import Direction
from agent.outputs.explanation import Explanation, Step
from agent.outputs.words import protocol_name, short_rule

_PLAIN = re.compile(r"[a-z][a-z0-9_]*(?:[.-][a-z0-9_]+)*")
_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


def advice(each: Explanation, step: Step) -> str:
    """One sentence, in the imperative."""
    failed = each.newest
    match failed:
        case Denial():
            return _OF_DENIALS[step](each, failed)
        case FailedLookup():
            return _OF_LOOKUPS[step](failed)
        case Outcome():
            return _OF_OUTCOMES[step](each, failed)
        case _:
            assert_never(failed)


_OF_LOOKUPS: dict[Step, Callable[[FailedLookup], str]] = {
    Step.CHECK_NAME: lambda lookup: f"check the spelling and the namespace of {lookup.name}: no such name exists",
    Step.CHECK_RESOLVER: lambda lookup: (
        f"look at the DNS server {lookup.peer} ({lookup.server.peer}): the name may be fine"
    ),
}
_OF_OUTCOMES: dict[Step, Callable[[Explanation, Outcome], str]] = {
    Step.CHECK_LISTENER: lambda _, outcome: (
        f"check that a server listens on port {outcome.tuple.service_port} of {_target(outcome)}, and is ready"
    ),
    Step.CHECK_ROUTE: lambda _, outcome: (
        f"check the way to {_target(outcome)}: routes, the node's network, a peering"
    ),
    Step.CHECK_OTHER_FIREWALLS: lambda _, outcome: (
        f"check that {_target(outcome)} is up, and the firewalls and security groups on the way: dagwall let it pass"
    ),
    Step.ADD_RULE_THERE: lambda each, _: f"add a rule at the other end: {_ends(each)} does not let this task in",
    Step.CHECK_SERVER: lambda _, outcome: f"look at the log of {_target(outcome)}, or of a proxy in front of it",
    Step.CHECK_TLS: lambda _, outcome: (
        f"compare the TLS settings with those of {_target(outcome)}: versions, name of the server, certificates"
    ),
    Step.CHECK_CREDENTIALS: lambda *_: (
        "check the token or password of the connection: expired, or of another account"
    ),
    Step.CHECK_PERMISSION: lambda *_: "check what this account may do there: it is known, and not allowed",
    Step.CHECK_PROXY: lambda *_: "give the proxy credentials, or do not use it: it asks who calls",
    Step.SLOW_DOWN: lambda *_: "call less often, or ask for a higher limit: the server has had too many calls",
}
_OF_DENIALS: dict[Step, Callable[[Explanation, Denial], str]] = {
    Step.RETRY: lambda *_: "try again: since then the policies have changed, and allow it",
    Step.ADD_PORT: lambda _, denial: f"add {_port(denial)} to {_nearest(denial)}, if the task should reach it",
    Step.BIND: lambda _, denial: (
        f"have a TaskIdentityBinding vouch for {_task(denial)}: {_nearest(denial)} counts only then"
    ),
    Step.EXACT_ID: lambda _, denial: (
        f"give the pod its exact ids in annotations: {_nearest(denial)} may mean them, and only a hash is known"
    ),
    Step.ENFORCE: lambda _, denial: (
        f"set `posture: enforce` on the policy of {_nearest(denial)}: in audit it allows nothing"
    ),
    Step.NAME_METADATA: lambda _, denial: (
        f"ask the platform team: {_nearest(denial)} reaches metadata only if it names `entity: metadata`"
    ),
    Step.LEAVE_IN: lambda _, denial: (
        f"take {denial.tuple.peer} out of the `except` of {_nearest(denial)}, or use another address"
    ),
    Step.ADD_RULE: lambda _, denial: (
        f"add a rule to the {denial.tuple.direction.name.lower()} of a policy that selects {_task(denial)}: "
        f"{rule_text(denial)}"
    ),
    Step.ADD_NATIVE_RULE: lambda *_: (
        "ask who owns the NetworkPolicies of this namespace: no policy of dagwall's lifts them"
    ),
    Step.ADD_RULE_THERE: lambda each, denial: (
        f"add a rule at the other end too: {_ends(each)} does not let {_task(denial)} in"
    ),
    Step.ASK_AUTHOR: lambda _, denial: (
        f"ask who owns {denial.rule.policy if denial.rule else 'the policy'}: the denial is meant, and no allow rule "
        "lifts it"
    ),
    Step.CHANGE_CLAIM: lambda *_: "run the DAG with a service account that may claim it, or change the binding",
    Step.CHECK_ADDRESS: lambda _, denial: (
        f"find out whose address {denial.tuple.peer} is: a pod that has just gone, or an old configuration"
    ),
    Step.CHECK_NODE: lambda *_: "look at `dagwall status` on this node",
    Step.ALLOW_RAW: lambda *_: "do without ping and the like, or set `rawSockets: true` in a policy of this task",
    Step.OTHER_SOCKET: lambda *_: "use TCP or UDP: sockets of this family go past every policy",
    Step.CHECK_PACKETS: lambda *_: "look at what sends such packets: no policy allows them",
    Step.CHECK_HELLO: lambda _, denial: (
        "connect by TLS, for a server that the rule names, or change `tls` of "
        f"{short_rule(denial.rule) if denial.rule else 'the rule'}"
    ),
    Step.CHECK_REQUEST: lambda _, denial: (
        "send a request of HTTP/1 that the rule names, or change `http` of "
        f"{short_rule(denial.rule) if denial.rule else 'the rule'}"
    ),
    Step.ASK_AGAIN: lambda *_: "ask again: the answer came later than the time that an answer has",
    Step.BEFORE_ENFORCING: lambda *_: "nothing now: it passed, in audit; do this before you enforce",
}
"""For each step that an explanation of such a failure may have (tests/unit/test_explained.py holds it to that)."""


def _target(outcome: Outcome) -> str:
    name, address = outcome.peer.name, str(outcome.tuple.peer)
    return (
        address if outcome.peer.kind in (PeerKind.ENTITY, PeerKind.UNKNOWN, PeerKind.CIDR) else f"{name} ({address})"
    )


def _nearest(denial: Denial) -> str:
    return f"rule {short_rule(denial.nearest.rule)}" if denial.nearest else "the rule"


def _ends(each: Explanation) -> str:
    return ", ".join(f"{end.pod.namespace}/{end.pod.name}" for end in each.denying_ends)


def _task(denial: Denial) -> str:
    identity = denial.endpoint.identity
    return f"DAG {identity.dag_id}" if identity.dag_id else f"service account {identity.service_account}"


def _port(denial: Denial) -> str:
    name = protocol_name(denial.tuple.protocol)
    return f"port {denial.tuple.service_port}/{name}" if denial.tuple.protocol in WITH_PORTS else f"protocol {name}"


def rule_text(denial: Denial) -> str:
    """A rule that would allow it, as YAML in one line."""
    side = "to" if denial.tuple.direction is Direction.EGRESS else "from"
    flow = denial.tuple
    ports = f"{{port: {flow.service_port}" if flow.protocol in WITH_PORTS else "{"
    protocol = protocol_name(flow.protocol)
    if protocol != "TCP":
        ports += f"{', ' if flow.protocol in WITH_PORTS else ''}protocol: {protocol}"
    return f"{{{side}: [{_peer(denial.peer, denial)}], ports: [{ports}}}]}}"


def _peer(peer: PeerName, denial: Denial) -> str:
    address = denial.tuple.peer
    cidr = f'{{cidr: "{address}/{address.max_prefixlen}"}}' if address.version == 6 else f"{{cidr: {address}/32}}"
    match peer.kind:
        case PeerKind.FQDN:
            return f"{{fqdn: {_quoted(peer.name)}}}"
        case PeerKind.SERVICE:
            namespace, _, name = peer.name.partition("/")
            return f"{{service: {{namespace: {_quoted(namespace)}, name: {_quoted(name)}}}}}"
        case PeerKind.POD if peer.identity is not None and peer.identity.dag_id:
            ids = peer.identity
            namespace = "" if ids.namespace == denial.endpoint.namespace else f", namespace: {_quoted(ids.namespace)}"
            return f"{{tasks: {{dagIds: [{_quoted(ids.dag_id)}]{namespace}}}}}"
        case PeerKind.ENTITY if peer.name not in ("world", "loopback"):
            return f"{{entity: {peer.name}}}"
        case PeerKind.POD | PeerKind.ENTITY | PeerKind.CIDR | PeerKind.UNKNOWN:
            return cidr
        case _:
            assert_never(peer.kind)


def _quoted(text: str) -> str:
    """As YAML reads it as text, whatever it is; a plain name stands as it is."""
    return text if _PLAIN.fullmatch(text) and text not in _WORDS else json.dumps(text)
