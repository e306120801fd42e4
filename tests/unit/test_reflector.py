"""List and watch as values: any order of a server's answers ends where the server is."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ApiError
from agent.model.cluster import Cluster
from agent.model.validated import Written
from agent.parse.object_kinds import Item
from agent.parse.objects import parse_object
from agent.sources.reflector import Reflector, Resource, Step
from agent.sources.store import Store

PODS = Resource("Pod", "v1", "pods")
NAMESPACES = Resource("Namespace", "v1", "namespaces")


def uuid_of(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


def pod(name: str, uid: str, version: int, ip: str = "10.0.0.1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "airflow", "uid": uuid_of(uid), "resourceVersion": str(version)},
        "spec": {"nodeName": "n1", "containers": [{"name": "base"}]},
        "status": {"podIP": ip},
    }


def reflector(resource: Resource = PODS) -> Reflector:
    return Reflector(resource, parse_object)


class Served:
    """A reflector and its store."""

    def __init__(self) -> None:
        self.reflector, self.store = reflector(), Store(Cluster())

    def take(self, step: Step) -> None:
        self.store.apply(step.upserts, step.deletes)

    def names(self) -> dict[str, str]:
        return {p.name: str(p.addresses[0]) for p in self.store.snapshot.pods.values()}


def test_a_list_is_complete_and_a_watch_goes_on_from_it() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5), pod("b", "u-2", 6)], "7")]))
    assert served.reflector.version == "7"
    served.take(served.reflector.event("ADDED", pod("c", "u-3", 8)))
    served.take(served.reflector.event("DELETED", pod("a", "u-1", 9)))
    served.take(served.reflector.event("BOOKMARK", {"metadata": {"resourceVersion": "12"}}))
    assert served.names().keys() == {"b", "c"}
    assert served.reflector.version == "12"


def test_duplicates_and_stale_events_change_nothing() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5, "10.0.0.5")], "5")]))
    for version, ip in ((5, "10.0.0.9"), (4, "10.0.0.4"), (6, "10.0.0.6"), (5, "10.0.0.9"), (6, "10.0.0.8")):
        served.take(served.reflector.event("MODIFIED", pod("a", "u-1", version, ip)))
    assert served.names() == {"a": "10.0.0.6"}


def test_a_version_that_goes_back_means_a_new_list() -> None:
    """An etcd that was restored from a backup: the next list is the truth, lower versions and all."""
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 900), pod("b", "u-2", 950)], "1000")]))
    assert served.reflector.event("MODIFIED", pod("a", "u-1", 920, "10.0.0.9")).relist
    assert not served.reflector.listed
    assert served.names().keys() == {"a", "b"}
    served.take(served.reflector.listing([([pod("a", "u-1", 920, "10.0.0.9")], "921")]))
    served.take(served.reflector.event("ADDED", pod("c", "u-3", 922)))
    assert served.names() == {"a": "10.0.0.9", "c": "10.0.0.1"}


def test_a_late_deletion_of_the_one_before_does_not_delete_the_one_after() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5)], "5")]))
    served.take(served.reflector.event("ADDED", pod("a", "u-2", 7, "10.0.0.7")))
    served.take(served.reflector.event("DELETED", pod("a", "u-1", 6)))
    assert served.names() == {"a": "10.0.0.7"}
    assert list(served.store.snapshot.pods) == [uuid_of("u-2")]


def test_gone_means_a_new_list_which_finds_lost_deletions() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5), pod("b", "u-2", 6)], "6")]))
    step = served.reflector.event("ERROR", {"kind": "Status", "code": 410})
    assert step.relist
    assert not served.reflector.listed
    assert served.names().keys() == {"a", "b"}, "nothing is pruned before the list"
    served.take(served.reflector.listing([([pod("b", "u-2", 6)], "20")]))
    assert served.names().keys() == {"b"}


def test_an_invalid_generation_keeps_the_last_valid_one_until_the_object_goes() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5)], "5")]))
    broken = pod("a", "u-1", 6)
    broken["status"] = {"podIP": "no address"}
    served.take(served.reflector.event("MODIFIED", broken))
    assert served.names() == {"a": "10.0.0.1"}
    assert "podIP" in str(next(iter(served.reflector.problems.values())))
    served.take(served.reflector.listing([([broken], "9")]))
    assert served.names() == {"a": "10.0.0.1"}
    broken["metadata"]["resourceVersion"] = "10"
    served.take(served.reflector.event("DELETED", broken))
    assert served.names() == {}
    assert not served.reflector.problems


def test_members_of_lists_come_without_their_kind() -> None:
    names = reflector(NAMESPACES)
    step = names.listing([([{"metadata": {"name": "airflow", "resourceVersion": "3"}}], "3")])
    assert [item.name for item in step.upserts] == ["airflow"]  # type: ignore[union-attr]
    assert (PODS.path, Resource("X", "g/v1", "xs").path) == ("/api/v1/pods", "/apis/g/v1/xs")


@given(st.integers(0, 10_000))
def test_any_history_with_repeats_and_relists_ends_where_the_server_is(seed: int) -> None:
    rng = random.Random(seed)
    truth: dict[str, dict[str, Any]] = {}
    served, version = Served(), 10
    served.take(served.reflector.listing([([], "10")]))
    for _ in range(rng.randint(1, 40)):
        version += 1
        name = rng.choice("abc")
        if name in truth and rng.random() < 0.4:
            gone = truth.pop(name)
            event = ("DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(version)}})
        else:
            old = truth.get(name)
            made = old["made"] if old else f"u-{version}"
            event = ("MODIFIED" if old else "ADDED", pod(name, made, version, f"10.0.{version % 250}.1"))
            truth[name] = event[1] | {"made": made}
        if rng.random() < 0.15:  # lost on the way; the server says so, sooner or later
            served.take(served.reflector.event("ERROR", {"code": 410}))
            served.take(served.reflector.listing([(list(truth.values()), str(version))]))
            continue
        for _ in range(rng.choice((1, 1, 2))):
            served.take(served.reflector.event(*event))
    assert served.names() == {name: obj["status"]["podIP"] for name, obj in truth.items()}


def policy(generation: int, version: int, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    metadata = {
        "name": "p", "namespace": "airflow", "uid": "u", "resourceVersion": str(version), "generation": generation
    }  # fmt: skip
    return {"metadata": metadata, "spec": spec, **more}


def test_judgements_are_of_generations_and_keep_the_last_valid_one() -> None:
    resource = Resource("TaskNetworkPolicy", "dagwall.io/v1alpha1", "tasknetworkpolicies", judged=True, kept=True)
    policies = Reflector(resource, parse_object)
    assert policies.judgements() == []
    policies.listing([([policy(1, 5, {"egress": []})], "5")])
    (first,) = policies.judgements()
    assert (first.generation, first.valid, first.problem) == (1, 1, "")
    policies.event("MODIFIED", policy(2, 6, {"egress": [{"to": [{"cidr": "10.0.0.1/8"}]}]}, status={"nodes": 1}))
    (second,) = policies.judgements()
    assert (second.generation, second.valid, second.item) == (2, 1, first.item)
    assert "spec.egress[0].to[0].cidr" in second.problem
    assert second.status == {"nodes": 1}
    again = Reflector(resource, parse_object, remembered={"u": second.source})
    invalid = policy(2, 6, {"egress": [{"to": [{"cidr": "10.0.0.1/8"}]}]})
    assert again.listing([([invalid], "6")]).upserts == (first.item,), "a restart is no new beginning"
    assert [(j.generation, j.valid, bool(j.problem)) for j in again.judgements()] == [(2, 1, True)]
    other = {**invalid, "metadata": {**invalid["metadata"], "uid": "another"}}
    assert Reflector(resource, parse_object, remembered={"u": second.source}).listing([([other], "6")]).upserts == ()
    policies.event("ERROR", {})
    assert policies.judgements() == [], "nothing is said while a list is due"
    policies.listing([([policy(3, 9, {})], "9")])
    (third,) = policies.judgements()
    assert (third.generation, third.valid) == (3, 3)


def test_pages_are_one_list_and_one_that_breaks_off_is_none() -> None:
    served = Served()
    served.take(served.reflector.listing([([pod("a", "u-1", 5)], "7"), ([pod("b", "u-2", 6)], "7")]))
    before = served.names()

    def broken() -> Iterator[tuple[list[dict[str, Any]], str]]:
        yield [pod("c", "u-3", 8)], "9"
        raise ApiError("the server went away", 0)

    with pytest.raises(ApiError):
        served.take(served.reflector.listing(broken()))
    assert (served.names(), served.reflector.version) == (before, "7")
    served.take(served.reflector.listing([([pod("c", "u-3", 8)], "9")]))
    assert served.names().keys() == {"c"}


def test_who_wrote_a_policy_last_is_kept_and_a_status_writer_is_nobody() -> None:
    """Of the API server's managedFields; what is broken in them counts as not known."""
    managed: list[Any] = [
        {"manager": "helm", "operation": "Apply", "time": "2026-01-01T00:00:00Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-02-01T00:00:00Z"},
        {"manager": "dagwall", "operation": "Update", "time": "2026-03-01T00:00:00Z", "subresource": "status"},
        "broken",
    ]
    policy = {
        "metadata": {
            "name": "p", "namespace": "airflow", "uid": uuid_of("p"), "generation": 2, "resourceVersion": "44",
            "managedFields": managed,
        },
        "spec": {"subject": {}, "egress": []},
    }  # fmt: skip
    kind = Resource("TaskNetworkPolicy", "dagwall.io/v1alpha1", "tasknetworkpolicies", judged=True)
    found = reflector(kind)
    found.listing([([policy], "45")])
    (judged,) = found.judgements()
    assert judged.written == Written("kubectl-edit", "Update", "2026-02-01T00:00:00Z", "44")


def test_an_object_that_trips_the_parser_up_is_invalid_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A defect of the parser (P17): the log has its traceback, and the kind's other objects come."""

    def parse(obj: object) -> Item:
        assert isinstance(obj, dict)
        if obj["metadata"]["name"] == "odd":
            raise AttributeError("no such field")
        return parse_object(obj)

    served = Served()
    served.reflector = Reflector(PODS, parse)
    served.take(served.reflector.listing([([pod("odd", "u-1", 5), pod("b", "u-2", 6)], "7")]))
    assert served.names().keys() == {"b"}
    ((name, problem),) = served.reflector.problems.items()
    assert name.name == "odd"
    assert "no such field" in str(problem)
    assert [each.exc_info is not None for each in caplog.records if each.message == "object.not_understood"] == [True]
