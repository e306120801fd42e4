"""Random clusters in a small universe, where selectors, ranges, services and ports meet often."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

from immutables import Map

from agent.model.cluster import (
    Address,
    Cluster,
    ContainerPort,
    Destination,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    Service,
    ServicePort,
    Settings,
)
from agent.model.hello import Hello
from agent.model.identity import Attestation, Claim, Identity, Kind, PodUid
from agent.model.policy import (
    CidrPeer,
    DefaultPosture,
    Entity,
    EntityPeer,
    FqdnPeer,
    HttpMatch,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PortMatch,
    Posture,
    Rule,
    ServicePeer,
    StartTls,
    Subject,
    TaskPeer,
    Tls,
)
from agent.model.protocol import IpProtocol
from agent.model.request import Request
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction, DropReason

NAMESPACES = ("etl", "db", "kube-system")
METADATA = ip_address("169.254.169.254")
ADDRESSES = tuple(
    ip_address(text)
    for text in [
        "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.1.1", "10.0.1.2", "10.1.0.1", "10.96.0.1",
        "10.96.0.10", "10.96.0.11", "192.168.0.1", "192.168.0.2", "192.168.7.7", "8.8.8.8", "1.1.1.1",
        "169.254.169.254", "169.254.20.10", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00::1", "fd00::2", "2001:db8::1", "fe80::1",
        "::1",
    ]
)  # fmt: skip
POD_ADDRESSES = tuple(a for a in ADDRESSES if str(a).startswith(("10.0.", "fd00")))
NETWORKS = tuple(
    ip_network(text)
    for text in [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.0.0.0/24",
        "10.0.0.2/32",
        "10.96.0.0/12",
        "192.168.0.0/16",
        "192.168.0.0/30",
        "8.8.8.8/32",
        "169.254.0.0/16",
        "169.254.169.254/32",
        "160.0.0.0/3",
        "224.0.0.0/4",
        "64:ff9b::/96",
        "2002::/16",
        "::/0",
        "fd00::/8",
        "fd00::/126",
        "2001:db8::/32",
    ]
)
PORTS = (53, 80, 443, 8080, 8443, 5432)
NAMES = ("http", "db")
PROBED_PORTS = {
    6: (53, 80, 443, 8080, 8443, 5432, 9999),
    17: (53, 8080, 9),
    132: (80, 7),
    **dict.fromkeys((1, 58, 47, 50), (0,)),
}
PROBES = tuple((protocol, port) for protocol, ports in PROBED_PORTS.items() for port in ports)
LABELS = ("app", "team")
VALUES = ("a", "b")
IDS = ("finance_daily", "finance_monthly", "_private", "")


def labels(r: Random) -> tuple[tuple[str, str], ...]:
    return tuple((key, r.choice(VALUES)) for key in LABELS if r.random() < 0.6)


def selector(r: Random) -> LabelSelector:
    found = []
    for key in LABELS:
        if r.random() < 0.4:
            operator = r.choice(list(Operator))
            values = (r.choice(VALUES),) if operator in (Operator.IN, Operator.NOT_IN) else ()
            found.append(Requirement(key, operator, values))
    return LabelSelector(tuple(found))


def addresses(r: Random, pool: tuple[Address, ...], most: int = 2) -> tuple[Address, ...]:
    return tuple(r.sample(pool, r.randint(0, most)))


def pod(r: Random, uid: str) -> Pod:
    namespace = r.choice(NAMESPACES)
    ambiguous = r.random() < 0.3
    dag = r.choice(IDS)
    if ambiguous and dag == "_private":
        dag = r.choice(("_private", "private-9b2b8a8d6", "finance_x-0123456ab"))
    identity = Identity(
        "c", namespace, r.choice(("default", "etl")), dag, r.choice(("load", "")), r.choice(list(Kind)), ambiguous
    )
    return Pod(
        uid=PodUid(uid),
        namespace=namespace,
        name=uid,
        claim=Claim(identity, labels(r), r.choice((Attestation.CLAIMED, Attestation.BOUND)), late=r.random() < 0.3),
        labels=labels(r),
        addresses=addresses(r, POD_ADDRESSES),
        ports=tuple(ContainerPort(n, r.choice((6, 17)), r.choice(PORTS)) for n in NAMES if r.random() < 0.5),
        node=r.choice(("here", "there")),
        host_network=r.random() < 0.1,
        finished=r.random() < 0.1,
        terminating=r.random() < 0.2,
        created=float(r.randrange(3)),
    )


def namespace(r: Random, name: str) -> Namespace:
    return Namespace(
        name,
        labels(r),
        managed=r.random() < 0.85,
        default_posture=r.choice((None, None, DefaultPosture.DENY, DefaultPosture.OBSERVE)),
        baseline=r.choice((None, None, (), (Entity.DNS,), (Entity.KUBE_APISERVER,))),
    )


SERVICES = (("default", "kubernetes"), ("kube-system", "kube-dns"), ("db", "postgres"), ("etl", "api"))


def service(r: Random, name: tuple[str, str]) -> Service:
    chart = (("component", "api-server"), ("tier", "airflow")) if r.random() < 0.2 else ()
    return Service(
        *name,
        addresses=addresses(
            r, tuple(a for a in ADDRESSES if str(a).startswith(("10.96", "8.8", "fd00", "169.254.169")))
        ),
        ports=tuple(
            ServicePort(n, r.choice((6, 17)), r.choice(PORTS), r.choice(PORTS)) for n in NAMES if r.random() < 0.7
        ),
        labels=chart,
        external=addresses(
            r, tuple(a for a in ADDRESSES if str(a).startswith(("8.8", "10.0.0", "192.168", "169.254.169")))
        ),
    )


def piece(r: Random, name: tuple[str, str]) -> EndpointSlice:
    found = addresses(r, ADDRESSES, 3)
    return EndpointSlice(
        name[0],
        name[1],
        r.choice([s for ns, s in SERVICES if ns == name[0]]),
        found,
        tuple(ContainerPort(n, r.choice((6, 17)), r.choice(PORTS)) for n in NAMES if r.random() < 0.8),
        waiting=frozenset(a for a in found if r.random() < 0.2),
        cut=r.random() < 0.1,
    )


def port_match(r: Random) -> PortMatch:
    kind = r.random()
    if kind < 0.5:
        return PortMatch(r.choice((6, 6, 17, 132)), r.choice(PORTS))
    if kind < 0.65:
        first = r.choice(PORTS)
        return PortMatch(r.choice((6, 17)), first, r.choice([p for p in (*PORTS, 9000) if p > first]))
    if kind < 0.8:
        return PortMatch(r.choice((6, 17)), name=r.choice(NAMES))
    return PortMatch(r.choice((1, 6, 17, 47, 58, 132)))


def port_matches(r: Random) -> tuple[PortMatch, ...] | None:
    return None if r.random() < 0.4 else tuple(port_match(r) for _ in range(r.randint(1, 4)))


def cidr(r: Random) -> CidrPeer:
    network = r.choice(NETWORKS)
    holes = [n for n in NETWORKS if n.version == network.version and n != network and n.subnet_of(network)]  # type: ignore[arg-type]
    return CidrPeer(network, tuple(h for h in holes if r.random() < 0.3))


PATTERNS = ("api.example.org", "*.example.org", "example.org", "*.org", "*.eu.example.org", "db.internal")
KNOWN_NAMES = ("api.example.org", "x.eu.example.org", "example.org", "db.internal", "www.other.org", "nowhere.test")


def peer(r: Random, *, names: bool = False) -> Peer:
    kind = r.randrange(7 if names else 6)
    if kind < 2:
        return cidr(r)
    if kind == 2:
        return ServicePeer(*r.choice(SERVICES))
    if kind == 3:
        where = r.choice((None, *NAMESPACES))
        return PodPeer(where, None if where or r.random() < 0.3 else selector(r), selector(r))
    if kind == 4:
        dags = r.choice(((), ("finance_*",), ("_private",), ("finance_daily", "*_monthly")))
        return TaskPeer(dags, r.choice(((), ("load",))), r.choice((None, *NAMESPACES)))
    return FqdnPeer(r.choice(PATTERNS)) if kind == 6 else EntityPeer(r.choice(list(Entity)))


def rule(r: Random, name: str, direction: Direction, *, denies: bool = False) -> Rule:
    names = direction is Direction.EGRESS and not denies
    peers = None if r.random() < 0.12 else tuple(peer(r, names=names) for _ in range(r.randint(1, 4)))
    ports = port_matches(r)
    dice = Random(repr((name, peers, ports)))  # of its own: the seeds that tests name stay what they are
    kind = dice.random()
    if names and kind < 0.5:
        streams = tuple(each for each in ports or () if each.protocol == IpProtocol.TCP)
        chosen = None if peers is None else tuple(each for each in peers if each != EntityPeer(Entity.DNS))
        at = (name, direction, chosen, streams or (PortMatch(6),))
        if chosen != ():
            return Rule(*at, tls=tls(dice, chosen)) if kind < 0.3 else Rule(*at, http=http(dice))
    return Rule(name, direction, peers, ports)


def tls(r: Random, peers: tuple[Peer, ...] | None) -> Tls:
    named = tuple(each.pattern for each in peers or () if isinstance(each, FqdnPeer))
    chosen = r.choice(((), named, (r.choice(PATTERNS),), tuple(r.sample(PATTERNS, 2))))
    start = StartTls.POSTGRES if r.random() < 0.2 else None
    return Tls(tuple(dict.fromkeys(chosen)), r.random() < 0.3, r.random() < 0.3, start)


PATHS = ("", "/", "/v1/*", "/v1/jobs", "/v1/*/runs", "/v1/jobs/*", "/*.json", "/aba*aba", "/aba")
KNOWN_PATHS = (
    "/",
    "/v1/jobs",
    "/v1/jobs/7/runs",
    "/v1/x/y/runs",
    "/v1/runs",
    "/a.json",
    "/ababa",
    "/aba",
    "/abaaba",
    "*",
)


def http(r: Random) -> tuple[HttpMatch, ...]:
    return tuple(
        dict.fromkeys(
            HttpMatch(
                r.choice(((), (), ("GET",), ("GET", "POST"))),
                r.choice(("", *PATTERNS)),
                r.choice(PATHS),
                r.choice((None, None, 8080)),
            )
            if r.random() < 0.8
            else HttpMatch(
                r.choice((("CONNECT",), ("CONNECT", "GET"))),
                r.choice(PATTERNS),
                port=r.choice((None, 8080)),
                inside=replace(tls(r, None), start_tls=None) if r.random() < 0.5 else None,
            )
            for _ in range(r.randint(1, 3))
        )
    )


def request(r: Random) -> Request:
    host = r.choice((*KNOWN_NAMES, "", "10.0.0.7"))
    if r.random() < 0.2:
        inside = r.choice((None, *(each for each in HELLOS if each.start_tls is None)))
        return Request("CONNECT", host, port=r.choice((443, 8080, 80)), inside=inside)
    method, port = r.choice(("GET", "POST", "PURGE")), r.choice((0, 0, 80, 8080))
    return Request(method, host, r.choice(KNOWN_PATHS), port, r.choice((*[DropReason.NONE] * 9, DropReason.UPGRADE)))


HELLOS = (
    *(
        Hello(name, encrypted, start_tls=start)
        for name in KNOWN_NAMES
        for encrypted in (False, True)
        for start in (None, StartTls.POSTGRES)
    ),
    Hello(),
    Hello(encrypted=True),
    Hello(fault=DropReason.NO_TLS),
)


def rules(r: Random, key: str, direction: Direction) -> tuple[Rule, ...] | None:
    if r.random() < 0.35:
        return None
    return tuple(rule(r, f"{key}[{i}]", direction) for i in range(r.choice((0, 1, 2, 3, 4))))


def policy(r: Random, ref: PolicyRef) -> Policy:
    cluster = not ref.namespace
    dags = r.choice(((), (), (), (), ("finance_*",), ("_private",), ("*",)))
    return Policy(
        ref,
        Subject(
            service_accounts=r.choice(((), (), (), ("etl",))),
            dag_ids=dags,
            kinds=r.choice(((), (), (), (), (Kind.OTHER, Kind.KUBERNETES_EXECUTOR))),
            pod_selector=r.choice((None, None, None, selector(r))),
            namespace_selector=selector(r) if cluster and r.random() < 0.5 else None,
        ),
        egress=rules(r, "egress", Direction.EGRESS),
        ingress=rules(r, "ingress", Direction.INGRESS),
        deny=tuple(
            rule(r, f"deny[{i}]", r.choice(list(Direction)), denies=True) for i in range(r.choice((0, 0, 1, 2)))
        ),
        posture=r.choice((Posture.ENFORCE, Posture.ENFORCE, Posture.ENFORCE, Posture.AUDIT)),
        attestation=r.choice((*[Attestation.CLAIMED] * 4, Attestation.BOUND)),
        raw_sockets=r.random() < 0.2,
    )


REFS = tuple(
    PolicyRef(ns, "TaskNetworkPolicy" if ns else "ClusterTaskNetworkPolicy", name)
    for ns in ("", *NAMESPACES)
    for name in ("p", "q")
)


def settings(r: Random) -> Settings:
    destinations: list[CidrPeer | ServicePeer] = [cidr(r), ServicePeer("db", "postgres")]
    return Settings(
        cluster="c",
        node=r.choice(("here", "")),
        default_posture=r.choice(list(DefaultPosture)),
        audit_everything=r.random() < 0.05,
        baseline=r.choice(((Entity.AIRFLOW, Entity.DNS), (Entity.DNS,), ())),
        pod_ranges=tuple(ip_network(n) for n in ("10.0.0.0/16", "fd00::/126") if r.random() < 0.7),
        service_ranges=(ip_network("10.96.0.0/12"),) if r.random() < 0.7 else (),
        metadata=(METADATA,) if r.random() < 0.9 else (),
        dns=addresses(r, tuple(ip_address(a) for a in ("169.254.20.10", "8.8.8.8", "169.254.169.254"))),
        airflow=tuple(Destination(d, port_matches(r)) for d in destinations if r.random() < 0.5),
        airflow_namespaces=r.choice((None, None, (), ("db", "default"))),
        host_addresses=addresses(r, tuple(ip_address(a) for a in ("10.0.0.1", "192.168.0.1", "127.0.0.1"))),
        metrics_port=r.choice((0, 443, 8443)),
    )


def node(r: Random, name: str) -> Node:
    pool = tuple(a for a in ADDRESSES if str(a).startswith("192.168.0"))
    return Node(name, addresses(r, pool), (ip_network("10.0.1.0/24"),) if r.random() < 0.3 else ())


def cluster(r: Random) -> Cluster:
    uids = [f"u{i}" for i in range(r.randint(1, 7))]
    return Cluster(
        revision=1,
        left_out=Map({PodUid(f"u{i}"): pod(r, f"u{i}") for i in (20, 21) if r.random() < 0.4}),
        pods=Map({PodUid(uid): pod(r, uid) for uid in uids}),
        namespaces=Map({name: namespace(r, name) for name in NAMESPACES if r.random() < 0.95}),
        services=Map({name: service(r, name) for name in SERVICES if r.random() < 0.7}),
        slices=Map({name: piece(r, name) for name in SERVICES if r.random() < 0.7}),
        nodes=Map({name: node(r, name) for name in ("here", "there") if r.random() < 0.8}),
        policies=Map({ref: policy(r, ref) for ref in REFS if r.random() < 0.6}),
        settings=settings(r),
    )


def changed(r: Random, was: Cluster) -> Cluster:
    """One event, as a watch might bring it."""
    kind = r.random()
    if kind < 0.5:
        uid = PodUid(f"u{r.randrange(8)}")
        if uid in was.pods and r.random() < 0.4:
            out = was.left_out.set(uid, was.pods[uid]) if r.random() < 0.5 else was.left_out
            return replace(was, pods=was.pods.delete(uid), left_out=out)
        if uid in was.left_out:
            came = was.pods.set(uid, was.left_out[uid]) if r.random() < 0.5 else was.pods
            return replace(was, pods=came, left_out=was.left_out.delete(uid))
        return replace(was, pods=was.pods.set(uid, pod(r, uid)))
    if kind < 0.75:
        name = r.choice(SERVICES)
        if r.random() < 0.5:
            gone = name in was.services and r.random() < 0.3
            return replace(
                was, services=was.services.delete(name) if gone else was.services.set(name, service(r, name))
            )
        gone = name in was.slices and r.random() < 0.3
        return replace(was, slices=was.slices.delete(name) if gone else was.slices.set(name, piece(r, name)))
    if kind < 0.9:
        ref = r.choice(REFS)
        gone = ref in was.policies and r.random() < 0.3
        return replace(was, policies=was.policies.delete(ref) if gone else was.policies.set(ref, policy(r, ref)))
    if kind < 0.95:
        return replace(was, settings=settings(r))
    where = r.choice(NAMESPACES)
    return replace(was, namespaces=was.namespaces.set(where, namespace(r, where)))
