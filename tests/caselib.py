"""Cases that unit and kernel tests share (tests/cases/*.yaml): one case, two judges.

A file has `base` (objects and settings of every case in it, unless the case brings its own under the same name) and
`cases`: each with name, semantics, objects, settings and expect. Objects are Kubernetes manifests; a pod without a
uid gets one made from its name. An expectation's `rule` is the text of a RuleRef, "" for none; absent: not looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml
from immutables import Map

from agent.model.cluster import Address, Cluster, Destination, Settings
from agent.model.identity import PodUid
from agent.model.policy import DefaultPosture, Entity
from agent.model.verdict import Direction, DropReason, Verdict
from agent.parse.fields import Field
from agent.parse.objects import object_name, parse_object
from agent.parse.peer_kinds import parse_peer
from agent.parse.peers import PROTOCOLS, Scope, parse_port
from agent.sources.store import key_of

CASES = Path(__file__).parent / "cases"
_UIDS = uuid.UUID("6f1e1c0e-9b5c-4f5e-8a58-0f7c1d0a5c11")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One packet and what becomes of it. `port` is the peer's for egress, the endpoint's for ingress."""

    endpoint: str  # namespace/name of the pod
    direction: Direction
    peer: Address
    protocol: int
    port: int
    verdict: Verdict
    reason: DropReason
    rule: str | None

    def __str__(self) -> str:
        where = f"{self.endpoint} {self.direction.name.lower()} {self.peer} {self.protocol}/{self.port}"
        return f"{where} -> {self.verdict.name.lower()}"


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster, and what packets meet in it. `semantics`: the rules that it is about, such as ("P2", "P4")."""

    file: str
    name: str
    semantics: tuple[str, ...]
    objects: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    expect: tuple[Expectation, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def load() -> list[Case]:
    """Every case of every file."""
    return [case for path in sorted(CASES.glob("*.yaml")) for case in _cases(path)]


def cluster(case: Case) -> Cluster:
    """The snapshot that a case describes."""
    tables: dict[str, dict[Any, Any]] = {}
    for obj in case.objects:
        item = parse_object(obj)
        key = key_of(item)
        tables.setdefault(key.table, {})[key.id] = item
    maps = {table: Map(items) for table, items in tables.items()}
    return Cluster(revision=1, complete=True, settings=settings(case.settings), **maps)


def uid_of(endpoint: str) -> PodUid:
    """Of a pod whose manifest has none."""
    return PodUid(str(uuid.uuid5(_UIDS, endpoint)))


def settings(written: dict[str, Any]) -> Settings:
    """Settings by the names of model.cluster.Settings, in YAML's words."""
    read = {
        "default_posture": DefaultPosture,
        "audit_everything": bool,
        "network_policy": bool,
        "metrics_port": int,
        "node": str,
        "baseline": lambda v: tuple(Entity(word) for word in v),
        "pod_ranges": lambda v: tuple(map(ip_network, v)),
        "service_ranges": lambda v: tuple(map(ip_network, v)),
        "metadata": lambda v: tuple(map(ip_address, v)),
        "dns": lambda v: tuple(map(ip_address, v)),
        "dns_services": lambda v: tuple(tuple(name.split("/")) for name in v),
        "host_addresses": lambda v: tuple(map(ip_address, v)),
        "airflow": lambda v: tuple(map(_destination, v)),
        "airflow_namespaces": tuple,
    }
    return Settings(**{key: read[key](value) for key, value in written.items()})  # type: ignore[operator]


def _destination(written: dict[str, Any]) -> Destination:
    field = Field("settings", "airflow", {k: v for k, v in written.items() if k != "ports"})
    ports = written.get("ports")
    peer = parse_peer(field, Scope(None))
    return Destination(
        peer,  # type: ignore[arg-type]
        None if ports is None else tuple(parse_port(Field("settings", "airflow", port)) for port in ports),
    )


def _cases(path: Path) -> Iterator[Case]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = document.get("base", {})
    if "include" in base:
        other = yaml.safe_load((path.parent / base["include"]).read_text(encoding="utf-8"))["base"]
        base = {
            "objects": [*other.get("objects", ()), *base.get("objects", ())],
            "settings": {**other.get("settings", {}), **base.get("settings", {})},
        }
    for written in document.get("cases", ()):
        yield Case(
            file=path.stem,
            name=written["name"],
            semantics=tuple(str(written["semantics"]).replace(",", " ").split()),
            objects=tuple(_merged([*base.get("objects", ()), *written.get("objects", ())])),
            settings={**base.get("settings", {}), **written.get("settings", {})},
            expect=tuple(_expectation(each) for each in written["expect"]),
        )


def _merged(objects: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Later objects take the place of earlier ones of the same kind and name."""
    found: dict[Any, dict[str, Any]] = {}
    for obj in objects:
        name = object_name(obj)
        if name.kind == "Pod" and "uid" not in obj["metadata"]:
            metadata = {**obj["metadata"], "uid": uid_of(f"{name.namespace}/{name.name}")}
            found[name] = {**obj, "metadata": metadata}
        else:
            found[name] = obj
    return found.values()


def _expectation(written: dict[str, Any]) -> Expectation:
    unknown = written.keys() - {"endpoint", "direction", "peer", "protocol", "port", "verdict", "reason", "rule"}
    if unknown:
        raise ValueError(f"unknown in expect: {unknown}")
    protocol = written.get("protocol", "TCP")
    return Expectation(
        endpoint=written["endpoint"],
        direction=Direction[written["direction"].upper()],
        peer=ip_address(written["peer"]),
        protocol=protocol if isinstance(protocol, int) else PROTOCOLS[protocol],
        port=written.get("port", 0),
        verdict=Verdict[written["verdict"].upper()],
        reason=DropReason[written.get("reason", "NONE")],
        rule=written.get("rule"),
    )
