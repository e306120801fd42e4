"""The memory that objects may take: who may have how much, what stays, what comes when there is room again (P17)."""

from __future__ import annotations

import gc
import json
import tracemalloc
from ipaddress import ip_address
from typing import Any

import pytest

from agent.errors import InvalidObject, NoRoom
from agent.model.weight import weight_of
from agent.parse.objects import ObjectName, parse_object
from agent.sources.manifest_set import ManifestSet
from agent.sources.reflector import Reflector, Resource
from agent.sources.room import ROOM_BYTES, Room
from tests.unit.test_reflector import pod, uuid_of

LIMIT = 256_000
ONE = {"ipBlock": {"cidr": "10.0.0.0/8"}}


def name(namespace: str, n: int = 0) -> ObjectName:
    return ObjectName("Pod", namespace, f"p{n}")


def fits(room: Room, of: ObjectName, weight: int) -> bool:
    try:
        room.take("pods", of, weight)
    except NoRoom:
        return False
    return True


def native(n: int, peers: int, **metadata: Any) -> dict[str, Any]:
    blocks = [{"ipBlock": {"cidr": f"{ip_address('20.0.0.0') + n * 65536 + i}/32"}} for i in range(peers)]
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": f"n{n}", "namespace": "worst", **metadata},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": blocks}]},
    }  # fmt: skip


def many_labels(n: int) -> dict[str, Any]:
    each = pod(f"p{n}", f"u{n}", 1)
    each["metadata"]["labels"] = {f"k{n}x{i}".ljust(40, "q"): f"v{i}" for i in range(2000)}
    return {"apiVersion": "v1", "kind": "Pod", **each}


def test_one_object_has_a_quarter_and_a_namespace_half() -> None:
    room = Room(LIMIT)
    with pytest.raises(
        NoRoom, match=r"Pod/a/p0: is too big: it needs 64,001 bytes of memory, one object may have 64,000"
    ):
        room.take("pods", name("a"), 64_001)
    assert [fits(room, name("a", n), 64_000) for n in range(3)] == [True, True, False]
    with pytest.raises(NoRoom, match=r"the objects of namespace a may have 128,000; no version of it is in force"):
        room.take("pods", name("a", 9), 1)


def test_a_quarter_is_kept_for_namespaces_that_have_little() -> None:
    room = Room(LIMIT)
    assert [fits(room, name("a", n), 64_000) for n in range(2)] == [True, True]
    assert fits(room, name("b"), 64_000)
    assert not fits(room, name("b", 1), 64_000)
    assert [fits(room, name(f"small{n}"), 1000) for n in range(64)] == [True] * 64
    assert not fits(room, name("small", 65), 1000), "then there is no more"


def test_what_is_in_force_stays_and_what_has_gone_makes_room() -> None:
    room = Room(LIMIT)
    room.take("pods", name("a"), 60_000)
    assert not fits(room, name("a"), 70_000)
    assert [fits(room, name("a", n), 60_000) for n in (1, 2)] == [True, False], "the version before counts on"
    freed = room.freed
    assert fits(room, name("a"), 50_000), "what becomes less always fits"
    room.leave("pods", name("a"))
    room.leave("pods", name("a", 7))
    assert room.freed == freed + 2
    assert fits(room, name("a", 2), 60_000)
    room.keep("pods", {name("a", 2)})
    assert fits(room, name("a", 3), 60_000)


def test_what_was_in_force_before_a_restart_is_never_refused() -> None:
    room = Room(LIMIT)
    room.take("pods", name("a"), LIMIT * 2, forced=True)
    assert not fits(room, name("a", 1), 1)
    assert not fits(room, name("b"), 1)


@pytest.mark.parametrize(
    ("made", "count"),
    [(lambda n: native(n, 2000), 40), (many_labels, 40), (lambda n: pod(f"p{n}", f"u{n}", 1), 4000)],
    ids=["blocks", "labels", "pods"],
)
def test_a_weight_is_near_what_memory_an_object_takes(made: Any, count: int) -> None:
    """So many objects that what other threads of the process allocate meanwhile does not count."""
    texts = [json.dumps({"apiVersion": "v1", "kind": "Pod", **made(n)}) for n in range(count)]
    parse_object(json.loads(texts[0]))
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    items = [parse_object(json.loads(text)) for text in texts]
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / 2 < sum(map(weight_of, items)) < taken * 3


def test_ten_thousand_pods_of_a_namespace_have_room() -> None:
    each = parse_object({"apiVersion": "v1", "kind": "Pod", **pod("p", "u", 1)})
    assert weight_of(each) * 10_000 < ROOM_BYTES // 2


def test_files_keep_what_is_in_force_and_say_what_found_no_room() -> None:
    manifests = ManifestSet(room=Room(2_000_000))
    for n in range(4):
        manifests.put(f"{n}.json", json.dumps(native(n, 800)).encode())
    items, problems = manifests.current()
    assert sorted(key.id.name for key in items if key.table == "network_policies") == ["n0", "n1"]
    assert ["/worst/n2: is too big" in str(problems[0]), "/worst/n3: is too big" in str(problems[1])] == [True, True]
    manifests.put("0.json", json.dumps(native(0, 1500)).encode())
    items, problems = manifests.current()
    assert len(problems) == 3
    assert any(key.table == "network_policies" and key.id.name == "n0" for key in items), "its version before"
    assert manifests.may_fit() == frozenset()
    manifests.remove("1.json")
    assert manifests.may_fit() == {"0.json", "2.json", "3.json"}
    manifests.put("2.json", json.dumps(native(2, 800)).encode())
    assert any(key.id.name == "n2" for key in manifests.current()[0] if key.table == "network_policies")


def test_what_is_wrong_with_an_object_is_kept_without_the_object() -> None:
    """An exception's traceback holds the frames that raised it: five refused files of 6 MB kept 500 MB."""
    manifests = ManifestSet(room=Room(1000))
    manifests.put("broken.yaml", b"a: [")
    manifests.put("a.json", json.dumps(native(0, 800)).encode())
    manifests.put("b.json", json.dumps(native(1, 800) | {"spec": 7}).encode())
    errors = [problem.error for problem in manifests.current()[1]]
    policies = Reflector(Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"), parse_object)
    policies.listing([([native(0, 1, uid=uuid_of("u0"), resourceVersion="1") | {"spec": 7}], "1")])
    errors += policies.problems.values()
    assert [(e.__traceback__, e.__context__, e.__cause__) for e in errors] == [(None, None, None)] * 4


def test_objects_of_the_api_that_find_no_room_come_with_a_later_list() -> None:
    room = Room(2_000_000)
    policies = Reflector(
        Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"), parse_object, room=room
    )
    served = [native(n, 800, uid=uuid_of(f"u{n}"), resourceVersion=str(n + 1)) for n in range(3)]
    step = policies.listing([(served, "9")])
    assert [item.ref.name for item in step.upserts if hasattr(item, "ref")] == ["n0", "n1"]
    assert [str(each) for each in policies.problems] == ["NetworkPolicy/worst/n2"]
    bigger = native(0, 1500, uid=uuid_of("u0"), resourceVersion="10")
    assert policies.event("MODIFIED", bigger) == policies.event("BOOKMARK", {"metadata": {"resourceVersion": "11"}})
    assert not policies.may_fit()
    gone = native(1, 800, uid=uuid_of("u1"), resourceVersion="12")
    assert policies.event("DELETED", gone).deletes
    assert policies.may_fit()
    step = policies.listing([([served[0], served[2]], "13")])
    assert len(step.upserts) == 2
    assert not policies.problems
    assert not policies.may_fit()


def test_an_object_made_again_that_finds_no_room_leaves_none_behind() -> None:
    room = Room(2_000_000)
    policies = Reflector(
        Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"), parse_object, room=room
    )
    policies.listing([([native(0, 800, uid=uuid_of("u0"), resourceVersion="1")], "1")])
    again = policies.event("ADDED", native(0, 1500, uid=uuid_of("other"), resourceVersion="2"))
    assert (len(again.upserts), len(again.deletes)) == (0, 1)
    assert fits(room, ObjectName("Pod", "worst", "p"), 490_000)
    assert fits(room, ObjectName("Pod", "worst", "q"), 490_000)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"egress": [{"to": [ONE] * 10_001}]}, "spec: has 10001 peers; at most 10000"),
        ({"egress": [{"to": [{"ipBlock": ONE["ipBlock"] | {"except": ["10.1.0.0/16"] * 10_000}}]}]}, "10001 peers"),
        ({"ingress": [{}] * 501}, "spec: has 501 rules; at most 500"),
        ({"ingress": [{"ports": [{"port": 1}] * 501}, {"ports": [{"port": 1}] * 500}]}, "spec: has 1001 ports"),
        ({"podSelector": {"matchLabels": {f"k{i}": "v" for i in range(1001)}}}, "podSelector.matchLabels: has 1,001"),
        (
            {"podSelector": {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"] * 1001}]}},
            "has 1,001 items; at most 1,000",
        ),
    ],
)  # fmt: skip
def test_what_one_network_policy_may_bring(spec: dict[str, Any], problem: str) -> None:
    obj = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": spec}
    with pytest.raises(InvalidObject, match=problem):
        parse_object(obj)


def test_named_ports_of_all_containers_count_together() -> None:
    each = {"apiVersion": "v1", "kind": "Pod", **pod("p", "u", 1)}
    ports = [[{"name": f"n{i}x{j}", "containerPort": 1 + j} for j in range(400)] for i in range(3)]
    each["spec"]["containers"] = [{"name": f"c{i}", "ports": ports[i]} for i in range(3)]
    with pytest.raises(InvalidObject, match="has more than 1,000 named ports, all containers together"):
        parse_object(each)
