"""Policies as written: what is legal becomes values, everything else one error that says what is allowed (P17)."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import yaml

from agent.errors import InvalidObject
from agent.model.identity import Attestation, Kind
from agent.model.policy import (
    CidrPeer,
    Entity,
    EntityPeer,
    HttpMatch,
    PodPeer,
    Policy,
    PolicyRef,
    PortMatch,
    Posture,
    Rule,
    ServicePeer,
    Subject,
    TaskPeer,
    Tls,
)
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction
from agent.parse.fields import Field
from agent.parse.objects import parse_object
from agent.parse.policies import API_VERSION, parse_policy


def parse(spec: str | dict[str, Any], *, cluster: bool = False, **metadata: Any) -> Policy:
    kind = "ClusterTaskNetworkPolicy" if cluster else "TaskNetworkPolicy"
    names: dict[str, Any] = {"name": "p"} if cluster else {"name": "p", "namespace": "etl"}
    obj = {
        "apiVersion": "dagwall.io/v1alpha1",
        "kind": kind,
        "metadata": names | metadata,
        "spec": yaml.safe_load(spec) if isinstance(spec, str) else spec,
    }
    return parse_policy(Field(f"{kind}/{'' if cluster else 'etl/'}p", "", obj))


WHOLE = """
subject:
  serviceAccounts: [etl]
  dagIds: ["finance_*"]
  taskIds: [load]
  kinds: [kubernetes-executor, kubernetes-pod-operator]
  podSelector: {matchLabels: {team: a}, matchExpressions: [{key: tier, operator: NotIn, values: [b, a]}]}
attestation: bound
posture: audit
rawSockets: true
egress:
- name: warehouse
  to:
  - {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
  - service: {namespace: db, name: postgres}
  - service: {name: local}
  - pods: {podSelector: {matchLabels: {app: x}}}
  - pods: {namespaceSelector: {}}
  - tasks: {dagIds: [a], taskIds: ["*"]}
  - tasks: {namespace: other}
  - entity: kube-apiserver
  ports: [{port: 443}, {port: 8000, endPort: 8100, protocol: UDP}, {port: http}, {protocol: ICMPv6}, {protocol: 47}]
- {}
ingress: []
deny:
- {name: no-meta, reason: because, to: [{entity: metadata}]}
- {from: [{cidr: 2001:db8::/32}], ports: [{protocol: SCTP}]}
- {direction: egress, ports: [{port: 25}]}
"""


def test_everything_that_may_be_written() -> None:
    policy = parse(WHOLE)
    assert policy.ref == PolicyRef("etl", "TaskNetworkPolicy", "p")
    assert policy.subject == Subject(
        service_accounts=("etl",),
        dag_ids=("finance_*",),
        task_ids=("load",),
        kinds=(Kind.KUBERNETES_EXECUTOR, Kind.KUBERNETES_POD_OPERATOR),
        pod_selector=LabelSelector(
            (Requirement("team", Operator.IN, ("a",)), Requirement("tier", Operator.NOT_IN, ("a", "b")))
        ),
    )
    assert (policy.attestation, policy.posture, policy.raw_sockets) == (Attestation.BOUND, Posture.AUDIT, True)
    assert policy.egress == (
        Rule(
            "warehouse",
            Direction.EGRESS,
            (
                CidrPeer(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),
                ServicePeer("db", "postgres"),
                ServicePeer("etl", "local"),
                PodPeer("etl", None, LabelSelector((Requirement("app", Operator.IN, ("x",)),))),
                PodPeer(None, LabelSelector(), LabelSelector()),
                TaskPeer(("a",), ("*",), "etl"),
                TaskPeer((), (), "other"),
                EntityPeer(Entity.KUBE_APISERVER),
            ),
            (
                PortMatch(6, 443),
                PortMatch(17, 8000, 8100),
                PortMatch(6, name="http"),
                PortMatch(58),
                PortMatch(47),
            ),
        ),
        Rule("egress[1]", Direction.EGRESS, None, None),
    )
    assert policy.ingress == ()
    assert policy.deny == (
        Rule("no-meta", Direction.EGRESS, (EntityPeer(Entity.METADATA),), None, "because"),
        Rule("deny[1]", Direction.INGRESS, (CidrPeer(ip_network("2001:db8::/32")),), (PortMatch(132),)),
        Rule("deny[2]", Direction.EGRESS, None, (PortMatch(6, 25),)),
    )


def test_the_least_that_may_be_written() -> None:
    assert parse({}) == Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject())


def test_cluster_policies_have_no_namespace_of_their_own() -> None:
    policy = parse(
        "{subject: {namespaceSelector: {}}, egress: [{to: [{pods: {podSelector: {}}}, {tasks: {}}]}]}", cluster=True
    )
    assert policy.ref == PolicyRef("", "ClusterTaskNetworkPolicy", "p")
    assert policy.subject.namespace_selector == LabelSelector()
    assert policy.egress is not None
    assert policy.egress[0].peers == (PodPeer(None, None, LabelSelector()), TaskPeer((), (), None))


HTTPS = "ports: [{port: 443}]"
REFUSED = [
    ("{egres: []}", "unknown field 'egres'; allowed: subject, attestation, posture, egress"),
    ("{egress: null}", "spec.egress: must be a list"),
    ("{egress: [{from: [{entity: dns}]}]}", "spec.egress[0]: unknown field 'from'; allowed: name, ports, to"),
    ("{egress: [{to: []}]}", "spec.egress[0].to: an empty list reads both ways"),
    ("{ingress: [{from: []}]}", "spec.ingress[0].from: an empty list reads both ways"),
    ("{egress: [{ports: []}]}", "spec.egress[0].ports: an empty list reads both ways"),
    ("{egress: [{to: null}]}", "spec.egress[0].to: must be a list"),
    ("{egress: [{to: [{}]}]}", "spec.egress[0].to[0]: must have exactly one of cidr, fqdn"),
    ("{egress: [{to: [{cidr: 10.0.0.0/8, entity: dns}]}]}", "exactly one of cidr, fqdn, service"),
    ("{egress: [{to: [{entity: null}]}]}", "spec.egress[0].to[0].entity: must have a value"),
    ("{egress: [{to: [{entity: internet}]}]}", "must be one of node, cluster, kube-apiserver"),
    ("{egress: [{to: [{entity: dns, except: [10.0.0.0/8]}]}]}", "belongs to cidr only"),
    ("{egress: [{to: [{cidr: 10.1.2.3/8}]}]}", "'10.1.2.3/8' has host bits set; the network is 10.0.0.0/8"),
    ("{egress: [{to: [{cidr: 10.1.2.3}]}]}", "write 10.1.2.3/32"),
    ("{egress: [{to: [{cidr: 10.0.0.0/33}]}]}", "is no CIDR"),
    ("{egress: [{to: [{cidr: '::ffff:10.0.0.0/104'}]}]}", "write IPv4 as 10.0.0.0/8"),
    ("{egress: [{to: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]}", "11.0.0.0/16 must lie inside 10.0.0.0/8"),
    ("{egress: [{to: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]}]}", "be smaller"),
    ("{egress: [{to: [{cidr: 10.0.0.0/8, except: ['fd00::/8']}]}]}", "must lie inside"),
    ("{egress: [{to: [{service: {}}]}]}", "service.name: must be a string"),
    ("{egress: [{to: [{service: {name: A_B}}]}]}", "'A_B' is no name"),
    ("{egress: [{to: [{pods: {}}]}]}", "must have podSelector, namespaceSelector or both"),
    ("{egress: [{to: [{pods: {podSelector: {matchExpressions: [{key: a, operator: in}]}}}]}]}", "one of In, NotIn"),
    ("{subject: {podSelector: {matchExpressions: [{key: a, operator: In}]}}}", "at least one value"),
    ("{subject: {podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}}", "must be absent"),
    ("{subject: {podSelector: {matchLabels: {'a b': c}}}}", "is no label key"),
    ("{subject: {podSelector: {matchLabels: {a: '-c'}}}}", "is no label value"),
    ("{subject: {podSelector: {matchLabel: {}}}}", "did you mean 'matchLabels'"),
    ("{subject: {namespaceSelector: {}}}", "is for ClusterTaskNetworkPolicy only"),
    ("{subject: {dagIds: []}}", "spec.subject.dagIds: an empty list reads both ways"),
    ("{subject: {dagIds: ['a b']}}", "'a b' is no id"),
    ("{subject: {serviceAccounts: ['etl-*']}}", "is no name"),
    ("{subject: {kinds: [executor]}}", "must be one of kubernetes-executor"),
    ("{posture: observe}", "must be one of enforce, audit"),
    ("{attestation: strong}", "must be one of claimed, bound, signed"),
    ("{egress: [{ports: [{}]}]}", "must have protocol, port or both"),
    ("{egress: [{ports: [{port: 0}]}]}", "from 1 to 65535"),
    ("{egress: [{ports: [{port: 70000}]}]}", "from 1 to 65535"),
    ("{egress: [{ports: [{port: 10, endPort: 9}]}]}", "endPort: must be at least port 10, not 9"),
    ("{egress: [{ports: [{port: http, endPort: 9}]}]}", "a named port has no range"),
    ("{egress: [{ports: [{endPort: 9}]}]}", "needs port"),
    ("{egress: [{ports: [{port: HTTP}]}]}", "neither a number nor a port's name"),
    ("{egress: [{ports: [{port: '80'}]}]}", "neither a number nor a port's name"),
    ("{egress: [{ports: [{protocol: ICMP, port: 8}]}]}", "protocol ICMP has no ports"),
    ("{egress: [{ports: [{protocol: tcp}]}]}", "must be one of TCP, UDP"),
    ("{egress: [{ports: [{protocol: 256}]}]}", "from 0 to 255"),
    ("{egress: [{name: Bad_Name}]}", "is no name"),
    ("{egress: [{name: a}], deny: [{name: a, direction: egress}]}", "'a' is the name of spec.egress[0] already"),
    ("{deny: [{}]}", "must have to or from, or direction"),
    ("{deny: [{to: []}]}", "reads both ways"),
    ("{deny: [{to: [{entity: dns}], from: [{entity: dns}]}]}", "not both"),
    ("{deny: [{to: [{entity: dns}], direction: ingress}]}", "contradicts to"),
    ("{deny: [{direction: both}]}", "must be egress or ingress"),
    ("{ingress: [{from: [{fqdn: example.org}]}]}", "from[0].fqdn: belongs to rules of egress only"),
    ("{deny: [{to: [{fqdn: example.org}]}]}", "deny[0].to[0].fqdn: belongs to rules of egress only"),
    ("{egress: [{to: [{fqdn: '*'}]}]}", "'*' is no DNS name; allowed: a name, or '*.' and a name"),
    ("{egress: [{to: [{fqdn: 'a*.example.org'}]}]}", "is no DNS name"),
    ("{egress: [{tls: {serverNames: [a.example]}}]}", "egress[0].tls: needs ports, of TCP"),
    (f"{{egress: [{{{HTTPS}, tls: {{serverNames: []}}}}]}}", "must name at least one server"),
    (f"{{egress: [{{{HTTPS}, tls: {{serverNames: [a..b]}}}}]}}", "serverNames[0]: 'a..b' is no DNS name"),
    (f"{{egress: [{{{HTTPS}, tls: {{serverNames: ['*']}}}}]}}", "serverNames[0]: '*' is no DNS name"),
    (f"{{egress: [{{{HTTPS}, tls: {{}}}}]}}", "must have required: true, serverNames or startTls"),
    (f"{{egress: [{{{HTTPS}, tls: {{required: false}}}}]}}", "tls.required: must be true; leave tls out"),
    (f"{{egress: [{{{HTTPS}, tls: {{startTls: mysql}}}}]}}", "startTls: must be one of postgres, not 'mysql'"),
    (f"{{egress: [{{{HTTPS}, tls: {{sni: [a.b]}}}}]}}", "unknown field 'sni'; allowed: required, serverNames"),
    (f"{{egress: [{{{HTTPS}, to: [{{entity: dns}}], tls: {{required: true}}}}]}}", "has no meaning for entity dns"),
    (f"{{ingress: [{{{HTTPS}, tls: {{required: true}}}}]}}", "tls: belongs to rules of egress only"),
    (f"{{deny: [{{to: [{{entity: world}}], {HTTPS}, tls: {{required: true}}}}]}}", "unknown field 'tls'"),
    (
        "{egress: [{ports: [{port: 443}, {port: 443, protocol: UDP}], tls: {required: true}}]}",
        "ports[1]: must be TCP",
    ),
    (
        f"{{egress: [{{{HTTPS}, to: [{{fqdn: a.b}}, {{cidr: 1.1.1.1/32}}], tls: {{required: true}}}}]}}",
        "needs serverNames where some peers are fqdn and others are not",
    ),
    (f"{{egress: [{{{HTTPS}, tls: {{serverNames: [{'.'.join(['a' * 62] * 4)}]}}}}]}}", "at most 250 characters"),
    ("{egress: [{http: [{methods: [FETCH]}]}]}", "http[0].methods[0]: must be one of GET"),
    ("{egress: [{http: [{path: v1}]}]}", "http[0].path: must begin with '/'"),
    ("{egress: [{http: [{path: '/a*b*'}]}]}", "path: has more than one '*', which this version cannot judge"),
    ("{egress: [{http: [{path: /a/../b}]}]}", "path: must have no segment '.' or '..'"),
    ("{egress: [{http: [{path: /a%2f../x}]}]}", "path: must have no segment '.' or '..'"),
    ("{egress: [{http: [{path: /a//x}]}]}", "path: must have no segment '.' or '..', nor an empty one"),
    ("{egress: [{http: [{path: /a;x}]}]}", "path: must have no ';'"),
    ("{egress: [{http: [{path: /a%3Bx}]}]}", "path: must have no ';'"),
    ("{egress: [{http: [{path: /v1/%2A}]}]}", "path: has an escaped '*'"),
    ("{egress: [{http: [{path: /v1/%2a/x/*}]}]}", "path: has an escaped '*'"),
    ("{egress: [{http: [{path: '/a?b=1'}]}]}", "path: must be a path alone"),
    ("{egress: [{http: [{path: /%25}]}]}", "path: '/%25' is no path that can be judged"),
    ("{egress: [{http: [{path: //a}]}]}", "path: '//a' is no path that can be judged"),
    (f"{{egress: [{{http: [{{path: /{'a' * 240}}}]}}]}}", "path: must have at most 240 bytes"),
    ("{egress: [{http: []}]}", "http: an empty list reads both ways"),
    (
        f"{{egress: [{{http: [{', '.join(f'{{path: /{i}}}' for i in range(33))}]}}]}}",
        "http: has 33 entries; at most 32",
    ),
    ("{egress: [{http: [{}]}]}", "http[0]: must have methods, host or path"),
    ("{egress: [{http: [{method: GET}]}]}", "unknown field 'method'; allowed: methods, host, path"),
    ("{egress: [{http: [{methods: []}]}]}", "methods: an empty list reads both ways"),
    ("{egress: [{http: [{host: 'a.b:0'}]}]}", "host: '0' is no port; allowed: 1 to 65535"),
    ("{egress: [{http: [{host: '*'}]}]}", "host: '*' is no DNS name"),
    ("{egress: [{http: [{methods: [CONNECT], path: /}]}]}", "path: has no meaning with CONNECT"),
    ("{egress: [{http: [{path: /}]}]}", "http: needs ports, of TCP"),
    ("{egress: [{ports: [{port: 53, protocol: UDP}], http: [{path: /}]}]}", "must be TCP in a rule with http"),
    (
        f"{{egress: [{{{HTTPS}, tls: {{required: true}}, http: [{{path: /}}]}}]}}",
        "tls: beside http it says what tunnels begin with; an entry of http must have method CONNECT",
    ),
    (f"{{ingress: [{{{HTTPS}, http: [{{path: /}}]}}]}}", "http: belongs to rules of egress only"),
    (
        f"{{egress: [{{{HTTPS}, to: [{{fqdn: a.b}}, {{cidr: 1.1.1.1/32}}], http: [{{path: /}}]}}]}}",
        "http: needs a host in each entry where some peers are fqdn",
    ),
    ("{rawSockets: 'yes'}", "must be true or false"),
]


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        ("tls: {required: true}", Tls()),
        (
            "tls: {serverNames: [API.Example.org, '*.Example.org.', api.example.org]}",
            Tls(("api.example.org", "*.example.org")),
        ),
        (
            "to: [{fqdn: api.example.org}, {fqdn: '*.b.org'}], tls: {required: true}",
            Tls(("api.example.org", "*.b.org")),
        ),
        ("to: [{fqdn: api.example.org}], tls: {serverNames: [b.org]}", Tls(("b.org",))),
        (
            "to: [{cidr: 10.0.0.0/8}], tls: {required: true, allowNoServerName: true, allowEncryptedHello: true}",
            Tls(nameless=True, encrypted=True),
        ),
    ],
)
def test_what_a_connection_must_begin_with(rule: str, meant: Tls) -> None:
    (found,) = parse(f"{{egress: [{{{HTTPS}, {rule}}}]}}").egress or ()
    assert found.tls == meant


@pytest.mark.parametrize(("spec", "problem"), REFUSED)
def test_refused(spec: str, problem: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse(spec)
    assert str(caught.value).startswith("TaskNetworkPolicy/etl/p: spec")
    assert problem in str(caught.value)


def test_a_service_in_a_cluster_policy_names_its_namespace() -> None:
    with pytest.raises(InvalidObject, match="must name the service's namespace"):
        parse("{egress: [{to: [{service: {name: a}}]}]}", cluster=True)


@pytest.mark.parametrize(
    ("cluster", "metadata", "problem"),
    [
        (True, {"namespace": "etl"}, "metadata.namespace: must be absent"),
        (False, {"namespace": None}, "metadata.namespace: must be given"),
        (False, {"name": "Upper"}, "metadata.name: 'Upper' is no name"),
    ],
)
def test_metadata(cluster: bool, metadata: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse({}, cluster=cluster, **metadata)
    assert problem in str(caught.value)


@pytest.mark.parametrize("change", [{"apiVersion": "v1"}, {"kind": "NetworkPolicy"}, {"spec": None}, {"spec": []}])
def test_not_a_policy(change: dict[str, Any]) -> None:
    obj = {"apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy", "spec": {}}
    obj["metadata"] = {"name": "p", "namespace": "etl"}  # type: ignore[assignment]
    with pytest.raises(InvalidObject):
        parse_policy(Field("x", "", obj | change))


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([{"name": f"r{i}"} for i in range(501)], "spec: has 501 rules; at most 500"),
        ([{"ports": [{"port": i + 1} for i in range(1001)]}], "spec: has 1001 ports; at most 1000"),
        ([{"to": [{"cidr": f"10.{i // 256}.{i % 256}.0/24"} for i in range(10_001)]}], "spec: has 10001 peers"),
    ],
)
def test_one_policy_cannot_be_without_end(rules: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse({"egress": rules})
    assert problem in str(caught.value)


def test_every_fault_of_an_object_is_told_at_once() -> None:
    spec = {
        "posture": "maybe", "egres": [], "subject": {"dagIds": []}, "rawSockets": 1, "attestation": "sworn",
        "egress": [{"to": [{"entity": "moon"}]}, {"to": [{"entity": "dns"}]}, {"ports": [{}]}],
        "deny": [{}, {"to": []}],
    }  # fmt: skip
    body = {"apiVersion": API_VERSION, "kind": "TaskNetworkPolicy", "metadata": {"name": "p", "namespace": "n"}}
    with pytest.raises(InvalidObject) as refused:
        parse_object({**body, "spec": spec})
    said = str(refused.value)
    for field in (
        "egres", "spec.subject.dagIds", "spec.egress[0].to[0].entity", "spec.egress[2].ports[0]", "spec.deny[0]",
        "spec.deny[1].to", "spec.posture", "spec.attestation", "spec.rawSockets",
    ):  # fmt: skip
        assert field in said
    assert "spec.egress[1]" not in said
    many = {"deny": [{} for _ in range(15)]}
    with pytest.raises(InvalidObject, match="and 5 faults more"):
        parse_object({**body, "spec": many})


def test_a_reason_cannot_move_the_cursor() -> None:
    """It is shown in terminals and in Events, of other people's pods with a cluster policy."""
    rule = {"name": "r", "reason": "ask Åsa: x\n\x1b[2J\u202eevil", "to": [{"entity": "metadata"}]}
    (found,) = parse({"subject": {}, "deny": [rule]}).deny
    assert found.reason == r"ask Åsa: x\n\x1b[2J\u202eevil"


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("{methods: [GET, HEAD, GET]}", HttpMatch(("GET", "HEAD"))),
        ("{host: API.Internal., path: /v1/*}", HttpMatch((), "api.internal", "/v1/*")),
        ("{host: '*.b.org:8080'}", HttpMatch((), "*.b.org", port=8080)),
        ("{host: 10.1.2.3}", HttpMatch((), "10.1.2.3")),
        ("{methods: [CONNECT], host: 'a.b:8443'}", HttpMatch(("CONNECT",), "a.b", port=8443)),
        ("{path: '/a%2fb%41%7e'}", HttpMatch(path="/a\x01bA~")),
        ("{path: /ü}", HttpMatch(path="/\xc3\xbc")),
    ],
)
def test_an_entry_of_http(entry: str, meant: HttpMatch) -> None:
    found = parse(f"{{egress: [{{{HTTPS}, http: [{entry}]}}]}}").egress
    assert found is not None
    assert found[0].http == (meant,)
    assert found[0].demands == (meant,)


def test_without_a_host_the_names_of_the_peers_are_meant() -> None:
    entries = "http: [{path: /a}, {host: c.d}, {methods: [CONNECT]}]"
    (found,) = parse(f"{{egress: [{{{HTTPS}, to: [{{fqdn: a.b}}, {{fqdn: '*.b'}}], {entries}}}]}}").egress or ()
    assert found.http == (
        HttpMatch((), "a.b", "/a"), HttpMatch((), "*.b", "/a"), HttpMatch((), "c.d"), HttpMatch(("CONNECT",)),
    )  # fmt: skip
