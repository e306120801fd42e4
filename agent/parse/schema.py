"""The schemas of dagwall's kinds, made from the validator's own tables: enumerations and bounds are written once.

Structural OpenAPI v3 schemas (apiextensions.k8s.io/v1). A rule that OpenAPI can state is stated so: servers refuse a
definition whose CEL rules could cost more than a budget, counted at the most items that lists may have. The one CEL
rule is about the end of a port range; servers before 1.25 drop it. Unknown fields are kept, so that the agent's
validator, which is the judge in any case, can refuse them, in the object's status too (P17).
"""

from __future__ import annotations

from agent.model.identity import Kind
from agent.model.policy import Posture, StartTls
from agent.model.protocol import WITH_PORTS
from agent.parse.bounds import MAX_RULES
from agent.parse.http import MAX_ENTRIES, MAX_PATH, METHODS
from agent.parse.peer_kinds import peer_schema
from agent.parse.peers import MAX_PORT, PROTOCOLS
from agent.parse.policies import ATTESTATIONS
from agent.parse.schema_words import (
    FQDN_PATTERN,
    PORT_NAME_PATTERN,
    Schema,
    all_of,
    an_object,
    any_of,
    dns_name,
    has,
    has_value,
    id_list,
    integer,
    judged,
    label_selector,
    list_of,
    not_the_case,
    number_or_name,
    one_of,
    string,
)
from agent.parse.tls import MAX_NAME

GROUP, VERSION = "dagwall.io", "v1alpha1"


def _port() -> Schema:
    """`port: "443"` is no name: a name has a letter."""
    port = judged(
        "A protocol, and for TCP, UDP and SCTP a port, a range, or a port's name.",
        port=number_or_name(
            f"A number from 1 to {MAX_PORT}, or a name in the peer's pods. Absent: every port.",
            minimum=1, maximum=MAX_PORT, maxLength=15, pattern=PORT_NAME_PATTERN, **all_of({"pattern": "[a-z]"}),
        ),
        endPort=integer("The last port of a range that begins with `port`.", minimum=1, maximum=MAX_PORT),
        protocol=number_or_name(
            f"{', '.join(PROTOCOLS)}, or a number from 0 to 255; TCP where absent.",
            minimum=0, maximum=255, pattern=f"^({'|'.join(PROTOCOLS)})$",
        ),
    )  # fmt: skip
    with_ports = has_value(
        "protocol", *(name for name, number in PROTOCOLS.items() if number in WITH_PORTS), *map(int, WITH_PORTS)
    )
    port |= {"minProperties": 1} | any_of(with_ports, all_of(not_the_case(has("port")), not_the_case(has("endPort"))))
    rule = "!has(self.endPort) || has(self.port) && type(self.port) == int && int(self.port) <= self.endPort"
    message = "endPort needs a port that is a number and not greater"
    return port | {"x-kubernetes-validations": [{"rule": rule, "message": message}]}


def _tls() -> Schema:
    """Which rules may have it, the agent's validator says."""
    name = string("A name, or '*.' and a name.", minLength=1, maxLength=MAX_NAME + 1, pattern=FQDN_PATTERN)
    return judged(
        "Of egress and TCP: connections must begin with a TLS ClientHello; beside http, tunnels of CONNECT.",
        required={"type": "boolean", "enum": [True], "description": "True; needed where serverNames and startTls are absent."},
        serverNames=list_of("Its server name must be one of these; absent: one of the rule's fqdn peers, or any.", name),
        startTls=one_of("The hello comes behind the protocol's own request for TLS.", [each.value for each in StartTls]),
        allowNoServerName={"type": "boolean", "description": "A hello without a server name will do."},
        allowEncryptedHello={"type": "boolean", "description": "An encrypted hello (ECH) will do, judged by its outer name."},
    ) | any_of(has("required"), has("serverNames"), has("startTls"))  # fmt: skip


def _http() -> Schema:
    """Which rules may have it, the agent's validator says."""
    host = r"^(\*\.)?[A-Za-z0-9_.-]+(:[1-9][0-9]{0,4})?$"
    entry = judged(
        "All given fields must match.",
        methods=list_of("Absent: every method but CONNECT.", one_of("A method.", list(METHODS)), most=len(METHODS)),
        host=string(
            "A name, '*.' and a name, or an IPv4 address. With a port: where a proxy is asked to go, by CONNECT (443 "
            "where absent) or in the absolute form (80). Absent: every host.",
            minLength=1, maxLength=MAX_NAME + 8, pattern=host,
        ),
        path=string(
            "Without query. `*`, once at most, stands for any run of characters; case counts. Absent: every path.",
            minLength=1, maxLength=3 * MAX_PATH, pattern=r"^/[^*?#]*(\*[^*?#]*)?$",
        ),
    ) | {"minProperties": 1}  # fmt: skip
    return list_of(
        "Of egress and TCP: each request must be one of these; nothing else leaves.", entry, most=MAX_ENTRIES
    )


def _direction(peers: str, verb: str, *, cluster: bool) -> Schema:
    entries = peer_schema(cluster=cluster, names=peers == "to")
    rule = judged(
        f"Allows traffic {peers} any of these peers at any of these ports.",
        name=dns_name("Appears in events, logs and errors."),
        **{peers: list_of("Any of these; absent: every peer but metadata addresses.", entries)},
        ports=list_of("Any of these; absent: every port of TCP, UDP, ICMP and ICMPv6.", _port()),
        tls=_tls(),
        http=_http(),
    )  # fmt: skip
    return list_of(
        f"What may be {verb}. An empty list denies all; absent: this policy does not speak about it.",
        rule,
        least=0,
        most=MAX_RULES,
    )


def _deny(*, cluster: bool) -> Schema:
    rule = judged(
        "Denies what matches, whatever allows it. Does not isolate.",
        name=dns_name("Appears in events, logs and errors."),
        reason=string("What people should read when it strikes.", maxLength=500),
        direction=one_of("For a rule about every peer.", ["egress", "ingress"]),
        to=list_of("Any of these.", peer_schema(cluster=cluster, names=False)),
        ports=list_of("Any of these; absent: every port.", _port()),
        **{"from": list_of("Any of these.", peer_schema(cluster=cluster, names=False))},
    )
    out = all_of(has("to"), not_the_case(has("from")), has_value("direction", "egress"))
    into = all_of(has("from"), not_the_case(has("to")), has_value("direction", "ingress"))
    every = all_of(has("direction"), not_the_case(has("to")), not_the_case(has("from")))
    return list_of("Deny rules.", rule | any_of(out, into, every), least=0, most=MAX_RULES)


def _subject(*, cluster: bool) -> Schema:
    fields = {
        "serviceAccounts": list_of(
            "The hard key: what an author cannot choose without Kubernetes' leave.", dns_name("A service account.")
        ),
        "dagIds": id_list("DAGs, as the pod claims."),
        "taskIds": id_list("Tasks, as the pod claims."),
        "kinds": list_of("What started the pod.", one_of("A kind.", [kind.value for kind in Kind])),
        "podSelector": label_selector("Labels at the pod's first sight."),
    }
    if cluster:
        fields["namespaceSelector"] = label_selector("Namespaces, by their labels.")
    return judged("Which pods; all given fields must match, and none given selects every pod.", **fields)


def policy_spec(*, cluster: bool) -> Schema:
    return judged(
        "What the selected pods may talk to.",
        subject=_subject(cluster=cluster),
        attestation=one_of("The least level at which allow rules count; `bound` needs a TaskIdentityBinding.", list(ATTESTATIONS)),
        posture=_posture("audit: reports what it would deny, and denies nothing.", Posture.ENFORCE),
        egress=_direction("to", "sent", cluster=cluster),
        ingress=_direction("from", "received", cluster=cluster),
        deny=_deny(cluster=cluster),
        rawSockets={"type": "boolean", "description": "Grants raw IP sockets to the subject."},
    )  # fmt: skip


def _posture(text: str, default: Posture) -> Schema:
    """The server writes the default into the object, where people and columns can read it."""
    return one_of(text, [posture.value for posture in Posture]) | {"default": default.value}


def status(endpoints: str) -> Schema:
    condition = an_object(
        "One aspect of the object's state.", ("type", "status"),
        type=string("Accepted or Programmed."), status=one_of("Its value.", ["True", "False", "Unknown"]),
        reason=string("One word."), message=string("What is wrong, and what is allowed."),
        lastTransitionTime=string("When it became so.", format="date-time"),
        observedGeneration=integer("Of the spec that was judged.", format="int64"),
    )  # fmt: skip
    return an_object(
        "What the agents make of it.",
        observedGeneration=integer("Of the spec that was judged.", format="int64"),
        conditions={"type": "array", "description": "Accepted, Programmed.", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        nodes=integer("Nodes that enforce it."),
        endpoints=integer(endpoints),
    )  # fmt: skip


def binding_spec() -> Schema:
    return judged(
        "Which DAGs and tasks the pods of these service accounts may claim to be.",
        ("namespace", "serviceAccounts", "dagIds"),
        namespace=dns_name("The service accounts' namespace."),
        serviceAccounts=list_of("Whose claims this is about.", dns_name("A service account.")),
        dagIds=id_list("DAGs that they may claim."),
        taskIds=id_list("Tasks that they may claim; absent: every task of the DAGs."),
        exclusive={"type": "boolean", "description": "No other service account may claim these."},
        exclusiveScope={
            "type": "string",
            "enum": ["namespace", "cluster"],
            "description": "With exclusive: no other service account of the namespace (default), or of the cluster.",
        },
        posture=_posture("enforce: quarantines a pod whose claim contradicts; audit (where absent): reports it.", Posture.AUDIT),
    )  # fmt: skip
