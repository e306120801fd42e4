"""Every filter of Hubble's requests, on lines of the flow log; and the small languages in them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from agent.outputs.filtering import MAX_FILTERS, MAX_VALUES, BadFilter
from agent.outputs.hubble import documents_of
from agent.outputs.hubble_ends import identity_number
from agent.outputs.observer.filters import FILTERS, filter_of
from agent.outputs.observer.patterns import label_of, label_pattern, name_pattern, node_pattern, text_pattern
from agent.outputs.observer.schema import MESSAGES
from tests.unit.test_outputs_hubble import FAILED, SHAPES, TASK

Flow = dict[str, Any]
FLOWS: list[Flow] = [
    line["flow"] for seen in (*SHAPES.values(), FAILED) for line in documents_of(seen, "n1", "0.1.0")
]


def ports(flow: Flow, field: str) -> list[int]:
    return [ports.get(field, 0) for ports in flow["l4"].values() if "destination_port" in ports]


CASES: list[tuple[str, list[Any], Callable[[Flow], bool]]] = [
    ("verdict", ["DROPPED", "AUDIT"], lambda f: f["verdict"] in ("DROPPED", "AUDIT")),
    ("uuid", [FLOWS[2]["uuid"]], lambda f: f is FLOWS[2]),
    ("traffic_direction", ["INGRESS"], lambda f: f["traffic_direction"] == "INGRESS"),
    ("drop_reason_desc", ["POLICY_DENY"], lambda f: f.get("drop_reason_desc") == "POLICY_DENY"),
    ("reply", [True], lambda f: "dns" in f.get("l7", {})),
    ("reply", [False], lambda f: "dns" not in f.get("l7", {})),
    ("ip_version", ["IPv6"], lambda f: f["IP"]["ipVersion"] == "IPv6"),
    ("event_type", [{"type": 1}], lambda f: f["event_type"]["type"] == 1),
    ("event_type", [{"type": 4, "match_sub_type": True}], lambda f: f["event_type"] == {"type": 4, "sub_type": 0}),
    ("event_type", [{"match_sub_type": True, "sub_type": 181}], lambda f: f["event_type"].get("sub_type") == 181),
    ("protocol", ["UDP"], lambda f: "UDP" in f["l4"]),
    ("protocol", ["icmp", "igmp"], lambda f: bool({"ICMPv4", "ICMPv6", "IGMP"} & f["l4"].keys())),
    ("protocol", ["dns"], lambda f: "dns" in f.get("l7", {})),
    ("protocol", ["http"], lambda f: "http" in f.get("l7", {})),
    ("protocol", ["kafka"], lambda _: False),
    ("http_method", ["post"], lambda f: f.get("l7", {}).get("http", {}).get("method") == "POST"),
    ("http_method", ["PATCH"], lambda _: False),
    ("http_path", ["^/admin"], lambda f: "/admin/" in f.get("l7", {}).get("http", {}).get("url", "")),
    ("http_path", ["internal"], lambda _: False),
    ("http_url", ["internal/adm"], lambda f: "/admin/" in f.get("l7", {}).get("http", {}).get("url", "")),
    ("tcp_flags", [{"SYN": True}], lambda f: "flags" in f["l4"].get("TCP", {})),
    ("tcp_flags", [{"SYN": True, "ACK": True}], lambda _: False),
    ("node_name", ["n1"], lambda _: True),
    ("node_name", ["prod/n*"], lambda _: True),
    ("node_name", ["other/"], lambda _: False),
    ("dns_query", ["^db\\."], lambda f: "db." in f.get("l7", {}).get("dns", {}).get("query", "")),
    ("dns_query", ["nowhere"], lambda _: False),
    ("source_ip", ["10.0.0.7"], lambda f: f["IP"]["source"] == "10.0.0.7"),
    ("destination_ip", ["192.0.2.0/24"], lambda f: f["IP"].get("destination", "").startswith("192.0.2.")),
    ("destination_ip", ["2001:0DB8::/32"], lambda f: f["IP"].get("destination", "").startswith("2001:db8:")),
    ("source_pod", ["airflow/finance"], lambda f: f["source"].get("pod_name") == "finance-load-x1"),
    ("destination_pod", ["airflow/"], lambda f: f["destination"].get("namespace") == "airflow"),
    ("destination_pod", ["/sales"], lambda f: f["destination"].get("pod_name") == "sales-extract-x1"),
    ("source_pod", ["finance-load-x1"], lambda _: False),  # of namespace `default`
    ("destination_service", ["db/postgres"], lambda f: f.get("destination_service", {}).get("name") == "postgres"),
    ("source_service", ["kube-system/"], lambda f: f.get("source_service", {}).get("namespace") == "kube-system"),
    ("destination_fqdn", ["*.example.com."], lambda f: "destination_names" in f),
    ("source_fqdn", ["*.example.com"], lambda _: False),
    ("source_label", ["dag_id=finance"], lambda f: "k8s:dag_id=finance" in f["source"]["labels"]),
    ("destination_label", ["reserved:world"], lambda f: "reserved:world" in f["destination"]["labels"]),
    ("destination_label", ["!reserved:world, k8s:task_id in (extract, load)"],
     lambda f: bool({"k8s:task_id=extract", "k8s:task_id=load"} & set(f["destination"]["labels"]))),
    ("source_port", ["40001"], lambda f: 40001 in ports(f, "source_port")),
    ("destination_port", ["443", "5432"], lambda f: bool({443, 5432} & set(ports(f, "destination_port")))),
    ("source_identity", [identity_number(TASK)], lambda f: f["source"].get("pod_name") == "sales-extract-x1"),
    ("destination_identity", [7], lambda f: f["destination"]["identity"] == 7),
    ("source_workload", [{"name": "finance"}], lambda f: f["source"].get("pod_name") == "finance-load-x1"),
    ("destination_workload", [{"kind": "DAG", "name": "sales"}],
     lambda f: f["destination"].get("pod_name") == "sales-extract-x1"),
    ("destination_workload", [{"kind": "Deployment", "name": "sales"}], lambda _: False),
    ("source_cluster_name", ["prod"], lambda f: f["source"].get("cluster_name") == "prod"),
    ("destination_cluster_name", ["prod"], lambda f: f["destination"].get("cluster_name") == "prod"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values", "meant"), CASES, ids=[f"{name}={values}"[:60] for name, values, _ in CASES]
)
def test_a_filter_finds_what_it_means(name: str, values: list[Any], meant: Callable[[Flow], bool]) -> None:
    passes = filter_of([{name: values}], [])
    assert [flow["uuid"] for flow in FLOWS if passes(flow)] == [flow["uuid"] for flow in FLOWS if meant(flow)]


def test_every_filter_is_tested_and_every_other_one_refused_by_name() -> None:
    known = {row.split()[0] for row in MESSAGES["flow.FlowFilter"].split(";")}
    assert {name for name, _, _ in CASES} == set(FILTERS)
    assert known >= set(FILTERS)
    for name in known - set(FILTERS):
        with pytest.raises(BadFilter, match=f"filter {name}: dagwall's flows have no such value"):
            filter_of([], [{name: ["x"]}])


def test_a_filter_s_fields_are_all_needed_a_list_s_filters_are_not_and_denied_ones_win() -> None:
    dropped, forwarded, tcp = {"verdict": ["DROPPED"]}, {"verdict": ["FORWARDED"]}, {"protocol": ["tcp"]}
    both = filter_of([{**dropped, **tcp}], [])
    assert all(f["verdict"] == "DROPPED" and "TCP" in f["l4"] for f in FLOWS if both(f))
    either = filter_of([dropped, forwarded], [])
    assert {f["verdict"] for f in FLOWS if either(f)} == {"DROPPED", "FORWARDED"}
    without = filter_of([tcp], [forwarded])
    assert {f["verdict"] for f in FLOWS if without(f)} == {"DROPPED", "AUDIT", "ERROR"}
    everything = filter_of([], [])
    assert all(everything(flow) for flow in FLOWS)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("source_ip", "10.0.0.300", "10.0.0.300"),
        ("source_port", "http", "must be a port number from 0 to 65535"),
        ("destination_port", "65536", "must be a port number"),
        ("protocol", "quic", "must be one of icmp, .*, not 'quic'"),
        ("source_pod", "", "must be NAMESPACE/NAME"),
        ("node_name", "a/b/c", "must be NODE or CLUSTER/NODE"),
        ("node_name", "", "must be NODE or CLUSTER/NODE"),
        ("source_fqdn", " ", "must not be empty"),
        ("source_label", "a=b=c,(", "must be requirements such as"),
        ("dns_query", "(a+)+$", "groups, alternatives and counts are not read"),
        ("dns_query", "[z-a]", "bad character range"),
        ("dns_query", "x" * 2000, "at most 1,024 characters of all filters together"),
        ("source_fqdn", "x" * 2000, "at most 256 values of 1024 characters"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_field(name: str, value: str, why: str) -> None:
    with pytest.raises(BadFilter, match=f"^filter {name}: .*{why}"):
        filter_of([{name: [value]}], [])


def test_there_are_so_many_filters_and_values() -> None:
    with pytest.raises(BadFilter, match=f"at most {MAX_FILTERS} filters"):
        filter_of([{"verdict": ["AUDIT"]}] * (MAX_FILTERS + 1), [])
    with pytest.raises(BadFilter, match=f"at most {MAX_VALUES} values"):
        filter_of([{"source_identity": list(range(MAX_VALUES + 1))}], [])
    with pytest.raises(BadFilter, match="at most 65,536 characters of all filters"):
        filter_of([{"source_fqdn": ["x" * 1000] * 40}], [{"destination_pod": ["y" * 1000] * 40}])


def test_expressions_cost_a_flow_so_much_at_most() -> None:
    """Between two flows whoever asks pays for the one before: a flow of seconds would be nobody's to pay."""
    with pytest.raises(BadFilter, match="dns_query: at most 1,024 characters of all filters"):
        filter_of([{"dns_query": ["a?" * 250]}] * 2, [{"dns_query": ["a?" * 250]}])


LABELS = [label_of(text) for text in ("k8s:a=1", "k8s:b=two", "cidr:10.0.0.0/8", "reserved:world")]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a=1", True), ("any:a=1", True), ("k8s:a == 1", True), ("reserved:a=1", False), ("a=2", False), ("a", True),
        ("c", False), ("!c", True), ("!a", False), ("a!=2", True), ("a!=1", False), ("c!=1", True),
        ("a in (1,2)", True), ("a notin (1,2)", False), ("a notin (3)", True), ("a=1,b=two", True),
        ("a=1,b=three", False), ("a in (1), b", True), ("reserved:world", True), ("cidr:10.0.0.0/8", True),
    ],
)  # fmt: skip
def test_label_selectors(text: str, holds: bool) -> None:
    assert label_pattern(text).matches(LABELS) is holds


@pytest.mark.parametrize("text", ["", "a=1,,b", "=1", "a in 1", "a in (1", "a b", "!a=1", "!"])
def test_label_selectors_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        label_pattern(text)


def test_names_and_nodes_have_stars() -> None:
    assert name_pattern("*.Example.com.")("api.example.com")
    assert not name_pattern("example.com")("api.example.com")
    assert node_pattern("n*")("prod/n1")
    assert node_pattern("prod/")("prod/n1")
    assert node_pattern("default/n1")("n1")
    assert not node_pattern("test/n1")("prod/n1")


PATTERNS = [
    "a",
    "^a",
    "a$",
    "^$",
    "",
    "a.c",
    "ab*c",
    "ab+c",
    "ab?c",
    "[ab]+c",
    "[^a]c",
    "a\\.b",
    "a.*b.*c",
    ".*",
    "b?$",
]
TEXTS = ["", "a", "b", "ab", "ac", "abc", "abbc", "bc", "a.b", "axb", "xxabcxx", "cab", "aXbXc"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_text_patterns_are_regular_expressions(pattern: str) -> None:
    for text in TEXTS:
        assert text_pattern(pattern).found_in(text) is (re.search(pattern, text) is not None), text


def test_no_text_pattern_takes_long() -> None:
    """Python's own would take longer than the world has been there, and let nothing else run."""
    pattern = text_pattern("a*" * 60 + "b$")
    began = time.process_time()
    assert not pattern.found_in("a" * 255)
    assert time.process_time() - began < 5
