"""Native NetworkPolicy by the cases in tests/data/conformance: every probe, through the compiler and its lookup.

Each step is compiled twice: whole from its state, and by taking in the steps' actions one after the other.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from agent.compiler.compiler import Compiler, whole
from agent.compiler.lookup import lookup
from agent.model.cluster import Address
from agent.model.verdict import Direction, Verdict
from agent.model.want import Want
from agent.parse.addresses import PROTOCOLS
from agent.parse.objects import parse_object
from agent.sources.store import Key, Store, key_of
from tests.conformance import (
    CASES,
    SETTINGS,
    namespace,
    objects,
    pod,
    service_address,
    services,
    snapshot,
    uid_of,
)


class Played:
    """A compiler that takes in actions as a watch would bring them: one object at a time, with what changed."""

    def __init__(self, state: dict[str, Any]) -> None:
        """`state`: of the case's first step, which the first actions have brought about."""
        self.store, self.compiler, self.objects = Store(), Compiler(), dict[Any, Any]()
        self.store.configure(SETTINGS)
        self.compiler.update(self.store.snapshot)
        for obj in (*objects({**state, "policies": []}), *services(state)):
            self._put(obj)

    def play(self, step: dict[str, Any]) -> None:
        for action in step["actions"]:
            getattr(self, action["type"].replace("-", "_"))(action, step["state"])

    def create_policy(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        self._put(action["policy"])

    update_policy = create_policy

    def delete_policy(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        self._delete(("NetworkPolicy", action["namespace"], action["name"]))

    def create_namespace(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        self._put(namespace(action["namespace"], action["labels"]))

    set_namespace_labels = create_namespace

    def delete_namespace(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        """Its pods go first, as the API server does it."""
        name = action["namespace"]
        for each in [each for each in self.objects if each[1] == name]:
            self._delete(each)
        self._delete(("Namespace", "", name))

    def create_pod(self, action: dict[str, Any], state: dict[str, Any]) -> None:
        """Without an address first, and then with the one that the state tells."""
        made = next(p for p in state["pods"] if (p["namespace"], p["name"]) == (action["namespace"], action["pod"]))
        obj = pod({**made, "labels": action["labels"]})
        self._put({**obj, "status": {"phase": "Pending"}})
        self._put(obj)

    def set_pod_labels(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        obj = self.objects["Pod", action["namespace"], action["pod"]]
        self._put({**obj, "metadata": {**obj["metadata"], "labels": action["labels"]}})

    def delete_pod(self, action: dict[str, Any], _: dict[str, Any]) -> None:
        self._delete(("Pod", action["namespace"], action["pod"]))

    def _put(self, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        self.objects[obj["kind"], metadata.get("namespace", ""), metadata["name"]] = obj
        self._update(upserts=[parse_object(obj)])

    def _delete(self, name: tuple[str, str, str]) -> None:
        self._update(deletes=[key_of(parse_object(self.objects.pop(name)))])

    def _update(self, upserts: Any = (), deletes: list[Key] | tuple[()] = ()) -> None:
        changes = self.store.apply(upserts, deletes)
        self.compiler.update(self.store.snapshot, changes)


def wrong(want: Want, step: dict[str, Any], *, served: bool = False) -> list[str]:
    """Probes that are answered otherwise than expected; `served`: the target is reached by its service (P13)."""
    pods = {f"{p['namespace']}/{p['name']}": ip_address(p["ip"]) for p in step["state"]["pods"]}
    targets = {name: service_address(number) for number, name in enumerate(pods)} if served else pods

    def passes(pod: str, direction: Direction, peer: Address, protocol: int, port: int) -> bool:
        found = lookup(want, uid_of(pod), direction, peer, protocol, port)
        return found.verdict is not Verdict.DENY

    found = []
    for probe in step["expected"]:
        source, target, port = probe["from"], probe["to"], probe["port"]
        protocol = PROTOCOLS[probe["protocol"]]
        egress = passes(source, Direction.EGRESS, targets[target], protocol, port)
        ingress = passes(target, Direction.INGRESS, pods[source], protocol, port)
        if source == target:  # a pod to itself (P7); by its service's address it leaves and comes back as the node
            right = egress is probe["egress"] if served else egress and ingress
        else:
            right = (egress, ingress, egress and ingress) == (probe["egress"], probe["ingress"], probe["combined"])
        if not right:
            found.append(f"{source} -> {target} {probe['protocol']}/{port}: egress {egress}, ingress {ingress}")
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any]) -> None:
    played = Played(case["steps"][0]["state"])
    for number, step in enumerate(case["steps"]):
        played.play(step)
        want = whole(snapshot(step["state"]))
        assert not wrong(want, step), f"step {number}, whole"
        assert not wrong(want, step, served=True), f"step {number}, by service"
        assert not wrong(played.compiler.want, step), f"step {number}, played"


def test_nothing_is_left_out() -> None:
    steps = [step for case in CASES for step in case["steps"]]
    assert (len(CASES), len(steps), sum(len(step["expected"]) for step in steps)) == (112, 122, 59646)
    assert {probe["protocol"] for step in steps for probe in step["expected"]} == {"TCP", "UDP", "SCTP"}
