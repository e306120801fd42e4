"""Label selectors, names and ids, as policies write them."""

from __future__ import annotations

import re

from agent.model.selector import LabelSelector, Operator, Requirement
from agent.parse.fields import Field

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ID = re.compile(r"[\w.*-]{1,250}")
MOST = 1000
"""Ids of a list, conditions of a selector, values of a condition; as many as the definitions allow."""
_WITHOUT_VALUES = (Operator.EXISTS, Operator.DOES_NOT_EXIST)


def parse_subdomain(field: Field) -> str:
    """A DNS-1123 subdomain, which is what Kubernetes allows as a name."""
    name = field.nonempty()
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise field.error(
            f"{name[:60]!r} is no name; allowed: lower case letters, digits, '-' and '.', at most 253 characters"
        )
    return name


def parse_ids(field: Field) -> tuple[str, ...]:
    """Dag or task ids; `*` stands for any run of characters (P16). Absent: none given."""
    ids = []
    for item in field.optional_items(MOST):
        text = item.nonempty()
        if not _ID.fullmatch(text):
            raise item.error(
                f"{text[:60]!r} is no id; allowed: letters, digits, '_', '-', '.', and '*' as a wildcard"
            )
        ids.append(text)
    if not field.absent and not ids:
        raise field.error("an empty list reads both ways; leave the field out to select every id")
    return tuple(dict.fromkeys(ids))


def parse_selector(field: Field) -> LabelSelector:
    """A metav1.LabelSelector; `{}` selects everything."""
    field.mapping("matchLabels", "matchExpressions")
    labels = field.child("matchLabels")
    if len(labels.mapping()) > MOST:
        raise labels.error(f"has {len(labels.mapping()):,} labels; at most {MOST:,} are allowed")
    requirements = [
        Requirement(_key(labels, key), Operator.IN, (_value(labels.child(key)),)) for key in labels.mapping()
    ]
    requirements += [_expression(item) for item in field.child("matchExpressions").optional_items(MOST)]
    return LabelSelector(tuple(sorted(set(requirements))))


def _expression(field: Field) -> Requirement:
    field.mapping("key", "operator", "values")
    field.child("key").nonempty()
    key = _key(field.child("key"), field.child("key").nonempty())
    operator = field.child("operator").choice(Operator)
    values = field.child("values")
    given = tuple(sorted({_value(item) for item in values.optional_items(MOST)}))
    if operator in _WITHOUT_VALUES and given:
        raise values.error(f"must be absent with operator {operator.value}")
    if operator not in _WITHOUT_VALUES and not given:
        raise values.error(f"must name at least one value with operator {operator.value}")
    return Requirement(key, operator, given)


def _key(field: Field, key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix))):
        raise field.error(f"{str(key)[:60]!r} is no label key; allowed: [dns.name/]name")
    return key


def _value(field: Field) -> str:
    value = field.string()
    if not _LABEL_VALUE.fullmatch(value):
        raise field.error(
            f"{value[:70]!r} is no label value; allowed: at most 63 letters, digits, '-', '_', '.', "
            "with a letter or digit at both ends"
        )
    return value
