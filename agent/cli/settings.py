"""From flags and the configuration file to Config and Settings. A flag wins over the file.

The file is YAML, an object with any of: cluster, defaultPosture, posture, baseline, managedNamespaces, podCidrs,
serviceCidrs, metadata, dns (addresses beside those of the DNS services and of NodeLocal DNSCache), dnsServices
(namespace/name), networkPolicy (true or false), airflow (a list of {cidr} or {service}, each with ports),
airflowNamespaces (where services with the Airflow chart's labels are entity `airflow`; absent: the managed ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from agent.abi.structs import MAPS
from agent.errors import InvalidObject
from agent.model.cluster import NODE_LOCAL_DNS, Address, Destination, Name, Settings
from agent.model.policy import CidrPeer, DefaultPosture, Entity, Posture, ServicePeer
from agent.parse.addresses import parse_addresses
from agent.parse.claims import parse_name
from agent.parse.fields import Field, joined
from agent.parse.peer_kinds import parse_peer
from agent.parse.peers import Scope, parse_network, parse_port
from agent.sources.manifests import decode

E = TypeVar("E", bound=Enum)

METADATA: tuple[Address, ...] = tuple(
    ip_address(text)
    for text in (
        "169.254.169.254", "fd00:ec2::254", "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "168.63.129.16",
        "100.100.100.200",
    )
)  # fmt: skip
"""Cloud metadata and credential addresses (P11), unless the file lists others."""

MIN_EVENTS_BYTES = 4096
_KEYS = (
    "cluster", "defaultPosture", "posture", "baseline", "managedNamespaces", "podCidrs", "serviceCidrs", "metadata",
    "dns", "dnsServices", "networkPolicy", "airflow", "airflowNamespaces",
)  # fmt: skip
_KEYS_OF_LISTS = ("managedNamespaces", "podCidrs", "serviceCidrs")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Settings, and the namespaces that are managed without a label."""

    settings: Settings
    managed_namespaces: frozenset[str]


def read_settings(path: Path | None, flags: Mapping[str, Any]) -> PolicySettings:
    """`flags` by the file's keys, decoded as the file would be; None and () where a flag was not given.

    Raises InvalidObject that names the file or the flag, the field, and what is allowed.
    """
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in flags.items() if value}
    root = _Both(_document(path), given)
    posture = root.at("posture").choice(Posture, Posture.ENFORCE)
    settings = Settings(
        cluster=root.at("cluster").string("default"),
        default_posture=root.at("defaultPosture").choice(DefaultPosture, DefaultPosture.OBSERVE),
        audit_everything=posture is Posture.AUDIT,
        baseline=_baseline(root.at("baseline")),
        pod_ranges=tuple(parse_network(item) for item in root.at("podCidrs").optional_items()),
        service_ranges=tuple(parse_network(item) for item in root.at("serviceCidrs").optional_items()),
        metadata=METADATA if root.at("metadata").absent else parse_addresses(root.at("metadata").items()),
        dns=tuple(dict.fromkeys((*NODE_LOCAL_DNS, *parse_addresses(root.at("dns").optional_items())))),
        dns_services=_services(root.at("dnsServices")),
        network_policy=root.at("networkPolicy").boolean(default=False),
        airflow=tuple(_destination(item) for item in root.at("airflow").optional_items()),
        airflow_namespaces=_names(root.at("airflowNamespaces")),
    )
    return PolicySettings(settings, frozenset(i.nonempty() for i in root.at("managedNamespaces").optional_items()))


@dataclass(frozen=True, slots=True)
class _Both:
    """Two places to look: the command line's word counts first, and its errors name the flag."""

    file: Field
    flags: Mapping[str, Any]

    def at(self, key: str) -> Field:
        return Field(_flag(key), "", self.flags[key]) if key in self.flags else self.file.child(key)


def _flag(key: str) -> str:
    """`--pod-cidr` of podCidrs: the file has lists where the flag can be repeated."""
    dashed = "".join(f"-{c.lower()}" if c.isupper() else c for c in key)
    return f"--{dashed.removesuffix('s') if key in _KEYS_OF_LISTS else dashed}"


def _document(path: Path | None) -> Field:
    if path is None:
        return Field("configuration", "", {})
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InvalidObject(str(path), "", f"cannot be read: {exc.strerror}") from exc
    documents = decode(content, str(path))
    if len(documents) > 1:
        raise InvalidObject(str(path), "", f"must be one YAML document, not {len(documents)}")
    root = Field(str(path), "", documents[0].body if documents else {})
    root.mapping(*_KEYS)
    return root


def _baseline(field: Field) -> tuple[Entity, ...]:
    """A list, or one text with commas; `none` or an empty list for nothing (P6)."""
    if field.absent:
        return Settings().baseline
    if isinstance(field.value, list):
        return tuple(dict.fromkeys(item.choice(Entity) for item in field.items()))
    words = [word.strip() for word in field.string().split(",") if word.strip()]
    known = {entity.value: entity for entity in Entity}
    for word in words:
        if word not in known and words != ["none"]:
            raise field.error(f"must be none, or entities separated by commas, of {joined(known)}, not {word[:60]!r}")
    return tuple(dict.fromkeys(known[word] for word in words if word != "none"))


def _services(field: Field) -> tuple[Name, ...]:
    if field.absent:
        return Settings().dns_services
    found = []
    for item in field.items():
        namespace, separator, name = item.nonempty().partition("/")
        if not (separator and namespace and name) or "/" in name:
            raise item.error(f"must be NAMESPACE/NAME, not {str(item.value)[:60]!r}")
        found.append((namespace, name))
    return tuple(found)


def _names(field: Field) -> tuple[str, ...] | None:
    return None if field.absent else tuple(dict.fromkeys(parse_name(item) for item in field.items()))


def _destination(field: Field) -> Destination:
    """{cidr: ...} or {service: ...}, and ports."""
    body = field.mapping("cidr", "except", "service", "ports")
    peer = parse_peer(Field(field.obj, field.path, {k: v for k, v in body.items() if k != "ports"}), Scope(None))
    if not isinstance(peer, CidrPeer | ServicePeer):
        raise field.error("must have cidr or service")
    ports = None if field.child("ports").absent else tuple(parse_port(item) for item in field.child("ports").items())
    return Destination(peer, ports)


def read_map_entries(texts: Sequence[str]) -> dict[str, int]:
    """NAME=N of maps that can be resized. Raises ValueError that names what is allowed."""
    sizes = {name: spec.entries for name, spec in MAPS.items() if spec.resizable} | {"events": MIN_EVENTS_BYTES}
    found: dict[str, int] = {}
    for text in texts:
        name, separator, number = text.partition("=")
        if not separator or name not in sizes:
            raise ValueError(f"must be NAME=N with NAME one of {joined(sorted(sizes))}, not {text!r}")
        if not (number.isascii() and number.isdigit()) or not 16 <= int(number) <= 1 << 24:
            raise ValueError(f"{name} must have 16 to {1 << 24} entries, not {number!r}")
        if name == "events" and (int(number) < MIN_EVENTS_BYTES or int(number) & (int(number) - 1)):
            raise ValueError(f"events is a size in bytes: a power of two from {MIN_EVENTS_BYTES}, not {number}")
        found[name] = int(number)
    return found
