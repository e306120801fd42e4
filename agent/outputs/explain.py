"""`policy explain`: which rule decides, and why. Asks the judge on a snapshot, of an agent or of files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from agent.errors import DagwallError
from agent.judge.judge import Decision, judge
from agent.model.cluster import Address, Cluster, Pod
from agent.model.hello import Hello
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import StartTls, Tls
from agent.model.protocol import WITH_PORTS
from agent.model.request import CONNECT, Carried, Request
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.other_end import other_ends
from agent.outputs.reasons import deny_reasons
from agent.outputs.words import (
    OF_DEMANDS,
    WHY,
    demands_text,
    nearest_text,
    protocol_name,
    reason_name,
    short_rule,
    socket_text,
)
from agent.parse.peers import MAX_PORT, PROTOCOLS
from agent.semantics.paths import normal_path

HYPOTHETICAL = PodUid("hypothetical")


@dataclass(frozen=True, slots=True)
class Question:
    """Who (a pod's name, or ids as a task claims them) wants to reach whom, or for ingress is to be reached."""

    host: str  # an address, `namespace/service` or `pod:namespace/name`
    port: int = 0
    protocol: str = "TCP"
    direction: Direction = Direction.EGRESS
    namespace: str = ""
    service_account: str = ""
    pod: str = ""
    dag: str = ""
    task: str = ""
    name: str = ""  # the DNS name by which the task would know the address
    server_name: str = ""  # of the TLS hello with which the connection would begin
    start_tls: str = ""  # what would come before the hello
    http: str = ""  # a request that it would carry: `GET http://host/path`, `CONNECT host:port`


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer for one identity and one address."""

    identity: str
    pod: str  # "" where no pod of this identity is known: its labels then count as absent
    address: str
    protocol: str
    port: int
    direction: str
    verdict: str
    reason: str
    rule: str
    denying: tuple[str, ...]
    allowing: tuple[str, ...]
    nearest: str
    layer: str  # the kind of policies that denies; "" where none does
    note: str
    text: str
    end: str = "asked"  # or "other": the pod is the peer of the one that was asked about, and managed too (P14)


def explain(cluster: Cluster, question: Question) -> tuple[Explanation, ...]:
    """For each identity that is meant and each address of the host one answer, and one for each managed pod there.

    Raises DagwallError.
    """
    number = _protocol(question.protocol)
    if number in WITH_PORTS and not 1 <= question.port <= 65535:
        raise DagwallError(f"--to: {question.protocol} needs a port from 1 to 65535, as in 192.0.2.9:5432")
    addresses, out = _addresses(cluster, question.host), []
    names = frozenset({question.name.lower().rstrip(".")} if question.name else ())
    for pod in _subjects(cluster, question):
        for address in addresses:
            at = (question.direction, address, number, question.port)
            decision = judge(cluster, pod, *at, names=names, carries=_carries(question))
            ends = list(other_ends(cluster, pod, question.direction, address, number, question.port))
            unjudged = [f"{end.pod.namespace}/{end.pod.name}" for end in ends if end.decision is None]
            if unjudged:
                note = f"not judged: the other end, pod {', '.join(unjudged)}, as no address of this task is known"
                note = f"{note}; name the pods' range (--pod-cidr)"
                decision = replace(decision, note=f"{decision.note}; {note}" if decision.note else note)
            out.append(_explanation(cluster, question, pod, address, decision))
            for end in ends:
                if end.address is not None and end.decision is not None:
                    turned = replace(question, direction=end.direction, port=end.port)
                    told = _explanation(cluster, turned, end.pod, end.address, end.decision)
                    out.append(replace(told, end="other"))
    return tuple(out)


def _carries(question: Question) -> Carried | None:
    """Nothing where neither is given: anything may still come."""
    if question.http:
        request = _request(question.http)
        if question.server_name and request.method != CONNECT:
            raise DagwallError(f"--server-name: beside --http it is of CONNECT's tunnel, not of {request.method}")
        return replace(request, inside=Hello(_server(question)) if question.server_name else None)
    if not question.server_name and not question.start_tls:
        return None
    start = StartTls(question.start_tls) if question.start_tls else None
    return Hello(_server(question), start_tls=start)


def _server(question: Question) -> str:
    return question.server_name.lower().rstrip(".")


_REQUEST = re.compile(
    r"(?P<method>[A-Z-]{1,15}) (?P<scheme>http://)?(?P<host>[A-Za-z0-9_.-]{1,248})(:(?P<port>[0-9]{1,5}))?(?P<path>/.*)?"
)
LONGEST_PATH = 1024
"""As the kernel reads them (bpf/types.h)."""


def _request(text: str) -> Request:
    """Of `METHOD http://host[:port]/path`, or `CONNECT host:port`. Raises DagwallError."""
    found = _REQUEST.fullmatch(text.strip())
    if found is not None and found["method"] == CONNECT and found["port"] and not found["path"]:
        if 0 < int(found["port"]) <= MAX_PORT and not found["scheme"]:
            return Request(CONNECT, found["host"].lower(), port=int(found["port"]))
    elif found is not None and found["method"] != CONNECT and found["scheme"]:
        path, fault = normal_path(found["path"].partition("?")[0] or "/")
        fault = DropReason.REQUEST_TOO_LONG if len(path) > LONGEST_PATH else fault
        return Request(found["method"], found["host"].lower(), path, fault=fault)
    raise DagwallError(f"--http: {text!r} is no request; allowed: 'GET http://HOST/PATH' or 'CONNECT HOST:PORT'")


def _protocol(text: str) -> int:
    known = {name.upper(): number for name, number in PROTOCOLS.items()}
    number = known.get(text.upper(), int(text) if text.isascii() and text.isdigit() else -1)
    if not 0 <= number <= 255:
        raise DagwallError(f"--to: protocol must be one of {', '.join(PROTOCOLS)} or a number, not {text!r}")
    return number


def _addresses(cluster: Cluster, host: str) -> tuple[Address, ...]:
    try:
        return (ip_address(host),)
    except ValueError:
        pass
    kind, _, name = host.rpartition(":")
    namespace, separator, name = name.partition("/")
    if not separator:
        raise DagwallError(
            f"--to: {host!r} is no address; allowed: an address, NAMESPACE/SERVICE, pod:NAMESPACE/NAME"
        )
    if kind == "pod":
        pods = [p for p in cluster.pods.values() if (p.namespace, p.name) == (namespace, name)]
        found = tuple(address for pod in pods for address in pod.addresses)
    else:
        service = cluster.services.get((namespace, name))
        found = (*service.addresses, *service.external) if service is not None else ()
    if not found:
        raise DagwallError(f"--to: no address of {host!r} is known")
    return found


def _subjects(cluster: Cluster, question: Question) -> list[Pod]:
    """One pod for each identity that is meant; where there is none, one as a task would have it."""
    chosen: dict[Identity, Pod] = {}
    for pod in sorted(cluster.pods.values(), key=lambda p: (p.namespace, p.name)):
        if not pod.finished and _is_meant(pod, question):
            chosen.setdefault(pod.claim.identity, pod)
    if chosen:
        return list(chosen.values())
    if question.pod:
        raise DagwallError(f"--pod: no pod {question.pod!r} is known" + _in(question.namespace))
    if question.namespace and question.namespace not in cluster.namespaces:
        known = ", ".join(sorted(cluster.namespaces)) or "none"
        raise DagwallError(f"--namespace: no namespace {question.namespace!r} is known here (known: {known})")
    if not question.namespace:
        managed = ", ".join(sorted(n.name for n in cluster.namespaces.values() if n.managed)) or "none"
        raise DagwallError(f"no pod of this DAG is known; name its --namespace (managed ones: {managed})")
    account = question.service_account or "default"
    kind = Kind.KUBERNETES_EXECUTOR if question.dag else Kind.OTHER
    identity = Identity(
        cluster.settings.cluster,
        question.namespace,
        account,
        question.dag,
        question.task if question.dag else "",
        kind,
    )
    claim = Claim(identity, ())
    return [Pod(HYPOTHETICAL, question.namespace, "", claim, node=cluster.settings.node)]


def _is_meant(pod: Pod, question: Question) -> bool:
    identity = pod.claim.identity
    wanted = (
        (question.namespace, pod.namespace),
        (question.service_account, identity.service_account),
        (question.pod, f"{pod.namespace}/{pod.name}" if "/" in question.pod else pod.name),
        (question.dag, identity.dag_id),
        (question.task, identity.task_id),
    )
    if not question.pod and not question.dag:
        return False
    return all(not want or want == have for want, have in wanted)


def _in(namespace: str) -> str:
    return f" in namespace {namespace}" if namespace else ""


def _explanation(cluster: Cluster, question: Question, pod: Pod, address: Address, got: Decision) -> Explanation:
    protocol = protocol_name(_protocol(question.protocol))
    return Explanation(
        identity=str(pod.claim.identity),
        pod="" if pod.uid == HYPOTHETICAL else f"{pod.namespace}/{pod.name}",
        address=str(address),
        protocol=protocol,
        port=question.port,
        direction=question.direction.name.lower(),
        verdict=got.verdict.name.lower(),
        reason=reason_name(got.reason),
        rule=str(got.rule or ""),
        denying=tuple(map(str, got.denying)),
        allowing=tuple(map(str, got.allowing)),
        nearest=nearest_text(got.nearest),
        layer=got.layer,
        note=got.note,
        text="; ".join(_sentences(cluster, question, pod, address, got)),
    )


def _sentences(cluster: Cluster, question: Question, pod: Pod, address: Address, got: Decision) -> Iterator[str]:
    verb = {Verdict.ALLOW: "allow", Verdict.DENY: "deny", Verdict.AUDIT: "allow (audit: would be denied)"}
    preposition = "to" if question.direction is Direction.EGRESS else "from"
    where = socket_text(str(address), question.port if question.direction is Direction.EGRESS else 0)
    yield f"{verb[got.verdict]}: {protocol_name(_protocol(question.protocol))} {preposition} {where}"
    namespace = cluster.namespaces.get(pod.namespace)
    if namespace is None or not namespace.managed:
        yield f"namespace {pod.namespace} is not managed: no policy applies to it"
    elif got.verdict is Verdict.ALLOW:
        yield f"by {short_rule(got.rule)}" if got.rule else "what stays in the pod is never judged"
        if got.demands:
            how = "begins with" if all(isinstance(each, Tls) for each in got.demands) else "carries"
            yield f"if it {how} {demands_text(got.demands)}"
    else:
        yield f"by {short_rule(got.rule)}" if got.rule else WHY[got.reason]
        if got.rule and got.reason in OF_DEMANDS:
            yield WHY[got.reason]
        written = deny_reasons(cluster).get(got.rule, "") if got.rule else ""
        if written:
            yield f"its reason: {written}"
        if got.nearest:
            yield f"nearest: {nearest_text(got.nearest)}"
    if got.note:
        yield got.note
