"""Words of structural OpenAPI v3 schemas (apiextensions.k8s.io/v1), as dagwall's definitions use them."""

from __future__ import annotations

from typing import Any

from agent.model.selector import Operator

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
ID_PATTERN = r"^[\p{L}\p{N}_.*-]+$"
FQDN_PATTERN = (
    r"^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$"
)
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


def all_of(*rules: Schema) -> Schema:
    return {"allOf": list(rules)}


def any_of(*rules: Schema) -> Schema:
    return {"anyOf": list(rules)}


def has(*fields: str) -> Schema:
    return {"required": list(fields)}


def has_value(field: str, *values: Any) -> Schema:
    """True also where the field is absent."""
    return {"properties": {field: {"enum": list(values)}}}


def not_the_case(rule: Schema) -> Schema:
    return {"not": rule}


def list_of(text: str, items: Schema, least: int = 1, most: int = MAX_ITEMS) -> Schema:
    return {"type": "array", "description": text, "items": items, "minItems": least, "maxItems": most}


def string(text: str, **more: Any) -> Schema:
    return {"type": "string", "description": text, **more}


def integer(text: str, **more: Any) -> Schema:
    return {"type": "integer", "description": text, **more}


def dns_name(text: str) -> Schema:
    return string(text, pattern=NAME_PATTERN, maxLength=253)


def one_of(text: str, values: list[str]) -> Schema:
    return string(text, enum=values)


def id_list(text: str) -> Schema:
    return list_of(
        f"{text} `*` stands for any run of characters; case counts; the whole id must match.",
        string("An id.", maxLength=250, pattern=ID_PATTERN),
    )


def label_selector(text: str) -> Schema:
    expression = judged(
        "One condition on one label.", ("key", "operator"), key=string("The label's key.", minLength=1),
        operator=one_of("How values are compared.", [operator.value for operator in Operator]),
        values={"type": "array", "description": "For In and NotIn.", "items": label_value(), "maxItems": MAX_ITEMS},
    )  # fmt: skip
    some, none = {"properties": {"values": {"minItems": 1}}}, {"properties": {"values": {"maxItems": 0}}}
    expression |= any_of(
        all_of(has_value("operator", "In", "NotIn"), has("values"), some),
        all_of(has_value("operator", "Exists", "DoesNotExist"), none),
    )
    return judged(
        f"{text} All conditions must hold; none selects everything.",
        matchLabels={
            "type": "object",
            "description": "Labels with these values.",
            "additionalProperties": label_value(),
        },
        matchExpressions=list_of("Further conditions.", expression, least=0, most=100),
    )


def label_value() -> Schema:
    return {"type": "string", "maxLength": 63, "pattern": LABEL_PATTERN}


def network(text: str) -> Schema:
    return string(text, maxLength=49, format="cidr", pattern="/")


def number_or_name(text: str, **bounds: Any) -> Schema:
    """Bounds of numbers do not apply to text, nor patterns to numbers."""
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "description": text,
        **bounds,
    }
