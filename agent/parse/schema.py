"""The schemas of dagwall's kinds, made from the validator's own tables: enumerations and bounds are written once.

Structural OpenAPI v3 schemas (apiextensions.k8s.io/v1). What only CEL can state is in x-kubernetes-validations, which
servers before 1.25 drop; the agent's validator is the judge in any case, and says in the object's status what is wrong.
"""

from __future__ import annotations

from typing import Any

from agent.model.identity import Kind
from agent.model.policy import Entity, Posture
from agent.model.selector import Operator
from agent.parse.peers import MAX_PORT, PROTOCOLS
from agent.parse.policies import ATTESTATIONS, MAX_RULES

GROUP, VERSION = "dagwall.io", "v1alpha1"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
MAX_ITEMS = 1000

Schema = dict[str, Any]


def an_object(text: str, required: tuple[str, ...] = (), /, **properties: Any) -> Schema:
    """`properties` by name; those whose name is a Python word come in a dict."""
    found: Schema = {"type": "object", "description": text, "properties": properties}
    return found | ({"required": list(required)} if required else {})


def _list(text: str, items: Schema, least: int = 1, most: int = MAX_ITEMS) -> Schema:
    return {"type": "array", "description": text, "items": items, "minItems": least, "maxItems": most}


def _text(text: str, **more: Any) -> Schema:
    return {"type": "string", "description": text, **more}


def _integer(text: str, **more: Any) -> Schema:
    return {"type": "integer", "description": text, **more}


def _name(text: str) -> Schema:
    return _text(text, pattern=NAME_PATTERN, maxLength=253)


def _enum(text: str, values: list[str]) -> Schema:
    return _text(text, enum=values)


def _rule(field: Schema, rule: str, message: str) -> Schema:
    """A CEL rule; servers that ignore CEL drop it."""
    return field | {
        "x-kubernetes-validations": [*field.get("x-kubernetes-validations", ()), {"rule": rule, "message": message}]
    }


def _ids(text: str) -> Schema:
    return _list(
        f"{text} `*` stands for any run of characters; case counts; the whole id must match.",
        _text("An id.", minLength=1, maxLength=250),
    )


def _selector(text: str) -> Schema:
    expression = an_object(
        "One condition on one label.", ("key", "operator"), key=_text("The label's key.", minLength=1),
        operator=_enum("How values are compared.", [operator.value for operator in Operator]),
        values={"type": "array", "description": "For In and NotIn.", "items": {"type": "string"}, "maxItems": MAX_ITEMS},
    )  # fmt: skip
    return an_object(
        f"{text} All conditions must hold; none selects everything.",
        matchLabels={
            "type": "object",
            "description": "Labels with these values.",
            "additionalProperties": {"type": "string"},
        },
        matchExpressions=_list("Further conditions.", expression, least=0, most=100),
    )


def _peer() -> Schema:
    peer = an_object(
        "Exactly one kind of peer.",
        cidr=_text("Every address of this range but metadata addresses; pods and services included.", maxLength=49),
        **{"except": {"type": "array", "description": "Ranges inside the cidr that are left out.", "items": {"type": "string", "maxLength": 49}, "maxItems": MAX_ITEMS}},
        service=an_object(
            "A service's addresses at its ports, and its endpoints at their target ports.", ("name",),
            namespace=_name("Its namespace; the policy's own where absent."), name=_name("Its name."),
        ),
        pods=an_object("Pods by the labels that they had at first sight.", namespaceSelector=_selector("Their namespaces."), podSelector=_selector("Their labels.")),
        tasks=an_object("Pods by what they claim to run.", namespace=_name("Their namespace."), dagIds=_ids("DAGs."), taskIds=_ids("Tasks.")),
        entity=_enum("A peer that every cluster has.", [entity.value for entity in Entity]),
        fqdn=_text("A DNS name; not supported by this version.", maxLength=255),
    )  # fmt: skip
    kinds = "['cidr', 'service', 'pods', 'tasks', 'entity', 'fqdn']"
    one = "[has(self.cidr), has(self.service), has(self.pods), has(self.tasks), has(self.entity), has(self.fqdn)].filter(x, x).size() == 1"
    return _rule(peer, one, f"must have exactly one of {kinds}")


def _number_or_name(text: str) -> Schema:
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "description": text,
    }


def _port() -> Schema:
    port = an_object(
        "A protocol, and for TCP, UDP and SCTP a port, a range, or a port's name.",
        port=_number_or_name(f"A number from 1 to {MAX_PORT}, or a name in the peer's pods. Absent: every port."),
        endPort={
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_PORT,
            "description": "The last port of a range that begins with `port`.",
        },
        protocol=_number_or_name(f"{', '.join(PROTOCOLS)}, or a number from 0 to 255; TCP where absent."),
    )
    names = ", ".join(f"'{name}'" for name in PROTOCOLS)
    known = f"type(self.protocol) == int ? self.protocol >= 0 && self.protocol <= 255 : self.protocol in [{names}]"
    bounds = f"type(self.port) == string || self.port >= 1 && self.port <= {MAX_PORT}"
    for rule, message in (
        ("!has(self.endPort) || has(self.port)", "endPort needs port"),
        (f"!has(self.port) || ({bounds})", f"port must be a name, or a number from 1 to {MAX_PORT}"),
        (f"!has(self.protocol) || ({known})", f"protocol must be a number from 0 to 255 or one of {names}"),
    ):
        port = _rule(port, rule, message)
    return port


def _direction(peers: str, verb: str) -> Schema:
    rule = an_object(
        f"Allows traffic {peers} any of these peers at any of these ports.",
        name=_name("Appears in events, logs and errors."),
        **{peers: _list("Any of these; absent: every peer but metadata addresses.", _peer())},
        ports=_list("Any of these; absent: every port of TCP, UDP, ICMP and ICMPv6.", _port()),
        tls=an_object("Not supported by this version.", serverNames=_list("TLS server names.", {"type": "string"})),
        http={"type": "array", "description": "Not supported by this version.", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "maxItems": MAX_ITEMS},
    )  # fmt: skip
    return _list(
        f"What may be {verb}. An empty list denies all; absent: this policy does not speak about it.",
        rule,
        least=0,
        most=MAX_RULES,
    )


def _deny() -> Schema:
    rule = an_object(
        "Denies what matches, whatever allows it. Does not isolate.",
        name=_name("Appears in events, logs and errors."),
        reason=_text("What people should read when it strikes.", maxLength=500),
        direction=_enum("For a rule about every peer.", ["egress", "ingress"]),
        to=_list("Any of these.", _peer()),
        ports=_list("Any of these; absent: every port.", _port()),
        **{"from": _list("Any of these.", _peer())},
    )
    return _list(
        "Deny rules.",
        _rule(rule, "!(has(self.to) && has(self.from))", "must have to or from, not both"),
        least=0,
        most=MAX_RULES,
    )


def _subject(*, cluster: bool) -> Schema:
    fields = {
        "serviceAccounts": _list(
            "The hard key: what an author cannot choose without Kubernetes' leave.", _name("A service account.")
        ),
        "dagIds": _ids("DAGs, as the pod claims."),
        "taskIds": _ids("Tasks, as the pod claims."),
        "kinds": _list("What started the pod.", _enum("A kind.", [kind.value for kind in Kind])),
        "podSelector": _selector("Labels at the pod's first sight."),
    }
    if cluster:
        fields["namespaceSelector"] = _selector("Namespaces, by their labels.")
    return an_object("Which pods; all given fields must match, and none given selects every pod.", **fields)


def policy_spec(*, cluster: bool) -> Schema:
    return an_object(
        "What the selected pods may talk to.",
        subject=_subject(cluster=cluster),
        attestation=_enum("The least level at which allow rules count; `bound` needs a TaskIdentityBinding.", list(ATTESTATIONS)),
        posture=_enum("audit: reports what it would deny, and denies nothing.", [posture.value for posture in Posture]),
        egress=_direction("to", "sent"),
        ingress=_direction("from", "received"),
        deny=_deny(),
        rawSockets={"type": "boolean", "description": "Grants raw IP sockets to the subject."},
    )  # fmt: skip


def status(endpoints: str) -> Schema:
    condition = an_object(
        "One aspect of the object's state.", ("type", "status"),
        type=_text("Accepted or Programmed."), status=_enum("Its value.", ["True", "False", "Unknown"]),
        reason=_text("One word."), message=_text("What is wrong, and what is allowed."),
        lastTransitionTime=_text("When it became so.", format="date-time"),
        observedGeneration=_integer("Of the spec that was judged.", format="int64"),
    )  # fmt: skip
    return an_object(
        "What the agents make of it.",
        observedGeneration=_integer("Of the spec that was judged.", format="int64"),
        conditions={"type": "array", "description": "Accepted, Programmed.", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        nodes=_integer("Nodes that enforce it."),
        endpoints=_integer(endpoints),
    )  # fmt: skip


def binding_spec() -> Schema:
    return an_object(
        "Which DAGs and tasks the pods of these service accounts may claim to be.",
        ("namespace", "serviceAccounts", "dagIds"),
        namespace=_name("The service accounts' namespace."),
        serviceAccounts=_list("Whose claims this is about.", _name("A service account.")),
        dagIds=_ids("DAGs that they may claim."),
        taskIds=_ids("Tasks that they may claim; absent: every task of the DAGs."),
        exclusive={"type": "boolean", "description": "No other service account may claim these."},
        exclusiveScope={
            "type": "string",
            "enum": ["namespace", "cluster"],
            "description": "With exclusive: no other service account of the namespace (default), or of the cluster.",
        },
        posture=_enum("enforce: quarantines a pod whose claim contradicts; audit (where absent): reports it.", [posture.value for posture in Posture]),
    )  # fmt: skip
