"""The schemas of dagwall's kinds, made from the validator's own tables: enumerations and bounds are written once.

Structural OpenAPI v3 schemas (apiextensions.k8s.io/v1). A rule that OpenAPI can state is stated so: servers refuse a
definition whose CEL rules could cost more than a budget, counted at the most items that lists may have. The one CEL
rule is about the end of a port range; servers before 1.25 drop it. Unknown fields are kept, so that the agent's
validator, which is the judge in any case, can refuse them and say so in the object's status (P17).
"""

from __future__ import annotations

from typing import Any

from agent.model.identity import Kind
from agent.model.policy import Entity, Posture
from agent.model.protocol import WITH_PORTS
from agent.model.selector import Operator
from agent.parse.peers import MAX_PORT, PEERS, PROTOCOLS
from agent.parse.policies import ATTESTATIONS, MAX_RULES

GROUP, VERSION = "dagwall.io", "v1alpha1"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
ID_PATTERN = r"^[\p{L}\p{N}_.*-]+$"
LABEL_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
PORT_NAME_PATTERN = r"^([a-z0-9]+-)*[a-z0-9]+$"
MAX_ITEMS = 1000

Schema = dict[str, Any]


def an_object(text: str, required: tuple[str, ...] = (), /, **properties: Any) -> Schema:
    """`properties` by name; those whose name is a Python word come in a dict."""
    found: Schema = {"type": "object", "description": text, "properties": properties}
    return found | ({"required": list(required)} if required else {})


def judged(text: str, required: tuple[str, ...] = (), /, **properties: Any) -> Schema:
    """An object of a spec: what the server does not know, it keeps for the agent's validator."""
    return an_object(text, required, **properties) | {"x-kubernetes-preserve-unknown-fields": True}


def _all(*rules: Schema) -> Schema:
    return {"allOf": list(rules)}


def _any(*rules: Schema) -> Schema:
    return {"anyOf": list(rules)}


def _has(*fields: str) -> Schema:
    return {"required": list(fields)}


def _is(field: str, *values: Any) -> Schema:
    """True also where the field is absent."""
    return {"properties": {field: {"enum": list(values)}}}


def _not(rule: Schema) -> Schema:
    return {"not": rule}


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


def _ids(text: str) -> Schema:
    return _list(
        f"{text} `*` stands for any run of characters; case counts; the whole id must match.",
        _text("An id.", maxLength=250, pattern=ID_PATTERN),
    )


def _selector(text: str) -> Schema:
    expression = judged(
        "One condition on one label.", ("key", "operator"), key=_text("The label's key.", minLength=1),
        operator=_enum("How values are compared.", [operator.value for operator in Operator]),
        values={"type": "array", "description": "For In and NotIn.", "items": _label(), "maxItems": MAX_ITEMS},
    )  # fmt: skip
    some, none = {"properties": {"values": {"minItems": 1}}}, {"properties": {"values": {"maxItems": 0}}}
    expression |= _any(_all(_is("operator", "In", "NotIn"), _has("values"), some), _all(_is("operator", "Exists", "DoesNotExist"), none))  # fmt: skip
    return judged(
        f"{text} All conditions must hold; none selects everything.",
        matchLabels={
            "type": "object",
            "description": "Labels with these values.",
            "additionalProperties": _label(),
        },
        matchExpressions=_list("Further conditions.", expression, least=0, most=100),
    )


def _label() -> Schema:
    return {"type": "string", "maxLength": 63, "pattern": LABEL_PATTERN}


def _cidr(text: str) -> Schema:
    return _text(text, maxLength=49, format="cidr", pattern="/")


def _peer(*, cluster: bool) -> Schema:
    own = "Its namespace." if cluster else "Its namespace; the policy's own where absent."
    pods = judged("Pods by their labels of now.", namespaceSelector=_selector("Their namespaces."), podSelector=_selector("Their labels."))  # fmt: skip
    peer = judged(
        "Exactly one kind of peer.",
        cidr=_cidr("Every address of this range but metadata addresses; pods and services included."),
        **{"except": {"type": "array", "description": "Ranges inside the cidr that are left out.", "items": _cidr("A range."), "maxItems": MAX_ITEMS}},
        service=judged(
            "A service's addresses at its ports, and its endpoints at their target ports.", ("namespace", "name") if cluster else ("name",),
            namespace=_name(own), name=_name("Its name."),
        ),
        pods=pods | _any(_has("namespaceSelector"), _has("podSelector")),
        tasks=judged("Pods by what they claim to run.", namespace=_name("Their namespace."), dagIds=_ids("DAGs."), taskIds=_ids("Tasks.")),
        entity=_enum("A peer that every cluster has.", [entity.value for entity in Entity]),
        fqdn=_text("A DNS name; not supported by this version.", minLength=1, maxLength=255),
    )  # fmt: skip
    whole = [_has("cidr")] + [_all(_has(kind), _not(_has("except"))) for kind in PEERS if kind != "cidr"]
    return peer | {"oneOf": whole}


def _number_or_name(text: str, **bounds: Any) -> Schema:
    """Bounds of numbers say nothing of text, nor patterns of numbers."""
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "description": text,
        **bounds,
    }


def _port() -> Schema:
    """`port: "443"` is no name: a name has a letter."""
    port = judged(
        "A protocol, and for TCP, UDP and SCTP a port, a range, or a port's name.",
        port=_number_or_name(
            f"A number from 1 to {MAX_PORT}, or a name in the peer's pods. Absent: every port.",
            minimum=1, maximum=MAX_PORT, maxLength=15, pattern=PORT_NAME_PATTERN, **_all({"pattern": "[a-z]"}),
        ),
        endPort=_integer("The last port of a range that begins with `port`.", minimum=1, maximum=MAX_PORT),
        protocol=_number_or_name(
            f"{', '.join(PROTOCOLS)}, or a number from 0 to 255; TCP where absent.",
            minimum=0, maximum=255, pattern=f"^({'|'.join(PROTOCOLS)})$",
        ),
    )  # fmt: skip
    with_ports = _is(
        "protocol", *(name for name, number in PROTOCOLS.items() if number in WITH_PORTS), *map(int, WITH_PORTS)
    )
    port |= {"minProperties": 1} | _any(with_ports, _all(_not(_has("port")), _not(_has("endPort"))))
    rule = "!has(self.endPort) || has(self.port) && type(self.port) == int && int(self.port) <= self.endPort"
    message = "endPort needs a port that is a number and not greater"
    return port | {"x-kubernetes-validations": [{"rule": rule, "message": message}]}


def _direction(peers: str, verb: str, *, cluster: bool) -> Schema:
    rule = judged(
        f"Allows traffic {peers} any of these peers at any of these ports.",
        name=_name("Appears in events, logs and errors."),
        **{peers: _list("Any of these; absent: every peer but metadata addresses.", _peer(cluster=cluster))},
        ports=_list("Any of these; absent: every port of TCP, UDP, ICMP and ICMPv6.", _port()),
        tls=judged("Not supported by this version.", serverNames=_list("TLS server names.", {"type": "string"})),
        http={"type": "array", "description": "Not supported by this version.", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "maxItems": MAX_ITEMS},
    )  # fmt: skip
    return _list(
        f"What may be {verb}. An empty list denies all; absent: this policy does not speak about it.",
        rule,
        least=0,
        most=MAX_RULES,
    )


def _deny(*, cluster: bool) -> Schema:
    rule = judged(
        "Denies what matches, whatever allows it. Does not isolate.",
        name=_name("Appears in events, logs and errors."),
        reason=_text("What people should read when it strikes.", maxLength=500),
        direction=_enum("For a rule about every peer.", ["egress", "ingress"]),
        to=_list("Any of these.", _peer(cluster=cluster)),
        ports=_list("Any of these; absent: every port.", _port()),
        **{"from": _list("Any of these.", _peer(cluster=cluster))},
    )
    out = _all(_has("to"), _not(_has("from")), _is("direction", "egress"))
    into = _all(_has("from"), _not(_has("to")), _is("direction", "ingress"))
    every = _all(_has("direction"), _not(_has("to")), _not(_has("from")))
    return _list("Deny rules.", rule | _any(out, into, every), least=0, most=MAX_RULES)


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
    return judged("Which pods; all given fields must match, and none given selects every pod.", **fields)


def policy_spec(*, cluster: bool) -> Schema:
    return judged(
        "What the selected pods may talk to.",
        subject=_subject(cluster=cluster),
        attestation=_enum("The least level at which allow rules count; `bound` needs a TaskIdentityBinding.", list(ATTESTATIONS)),
        posture=_posture("audit: reports what it would deny, and denies nothing.", Posture.ENFORCE),
        egress=_direction("to", "sent", cluster=cluster),
        ingress=_direction("from", "received", cluster=cluster),
        deny=_deny(cluster=cluster),
        rawSockets={"type": "boolean", "description": "Grants raw IP sockets to the subject."},
    )  # fmt: skip


def _posture(text: str, default: Posture) -> Schema:
    """The server writes the default into the object, where people and columns can read it."""
    return _enum(text, [posture.value for posture in Posture]) | {"default": default.value}


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
    return judged(
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
        posture=_posture("enforce: quarantines a pod whose claim contradicts; audit (where absent): reports it.", Posture.AUDIT),
    )  # fmt: skip
