"""Lines of every shape beside the golden file of the flow log, and what Hubble's readers make of their fields."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.flows.join import NO_PEER
from agent.model.flow import (
    NO_ANSWER,
    Denial,
    FailedLookup,
    Flow,
    Outcome,
    PeerKind,
    PeerName,
    Place,
    RuleMatch,
    Tuple,
)
from agent.model.request import Request
from agent.model.verdict import Cause, Direction, DropReason, Hook, Verdict
from agent.outputs.hubble import documents_of, lines_in, lines_of
from agent.outputs.hubble_ends import identity_number
from agent.outputs.hubble_reasons import DROP_REASONS
from tests.unit.seen import WORLD, denial, endpoint, flow, outcome

GOLDEN = Path(__file__).parent.parent / "data" / "flowlog" / "flows.jsonl"
INGRESS, AUDIT = Direction.INGRESS, Verdict.AUDIT
TASK = endpoint("sales", "extract").identity
TASK_POD = PeerName(PeerKind.POD, "airflow/sales/extract", TASK, "sales-extract-x1")
API_SERVER = PeerName(PeerKind.SERVICE, "default/kubernetes", place=Place.API_SERVER)
OTHER_NODE = PeerName(PeerKind.ENTITY, "node", place=Place.OTHER_NODE)
NODE = PeerName(PeerKind.ENTITY, "node", place=Place.THIS_NODE)
DENY = "ClusterTaskNetworkPolicy/no-metadata/credentials"
RAW = replace(denial(reason=DropReason.RAW_SOCKET), hook=Hook.SOCK_CREATE, peer=NO_PEER, nearest=None, source_port=0)
OTHER = replace(endpoint("sales", "extract", "sales-extract-x1"), uid="uid-2")
JOIN = replace(denial(address="224.0.0.22"), hook=Hook.EGRESS, nearest=None)

SHAPES: dict[str, Flow | Denial | Outcome] = {
    "allowed": flow(),
    "to a task's pod": flow(peer=TASK_POD, address="10.0.0.8"),
    "to a service": flow(peer=PeerName(PeerKind.SERVICE, "db/postgres"), address="10.96.0.9", port=5432),
    "to a service's pod": flow(peer=replace(TASK_POD, kind=PeerKind.SERVICE, name="airflow/api"), address="10.0.0.8"),
    "to the API server": flow(peer=API_SERVER, address="10.96.0.1"),
    "to another node": flow(peer=OTHER_NODE, address="192.0.2.66", port=10250),
    "from this node, IPv6": flow(peer=NODE, address="2001:db8::1", direction=INGRESS, port=8793),
    "datagrams from a client's port": replace(flow(protocol=17, direction=INGRESS, port=8125), source_port=40_001),
    "passed in audit": replace(flow(verdict=AUDIT), rule=DENY, reason=DropReason.DENY_RULE),
    "no rule": denial(),
    "deny rule": replace(denial(reason=DropReason.DENY_RULE, rule=DENY), match=RuleMatch.PEER),
    "denied incoming": replace(denial(direction=INGRESS), hook=Hook.INGRESS, peer=TASK_POD),
    "audit": replace(denial(verdict=AUDIT, reason=DropReason.DENY_RULE, rule=DENY), match=RuleMatch.PEER_AND_PORT),
    "raw socket": replace(RAW, tuple=replace(RAW.tuple, protocol=1, service_port=0, peer=ip_address("::"))),
    "refused family": replace(
        RAW,
        reason=DropReason.SOCKET_FAMILY,
        hook=Hook.SOCKET_CREATE,
        family=17,
        tuple=replace(RAW.tuple, protocol=0, service_port=0, peer=ip_address("::")),
    ),
    "another pod's socket": replace(
        denial(verdict=Verdict.ALLOW, reason=DropReason.NONE), nearest=None, opened_by=OTHER
    ),
    "group membership": replace(JOIN, tuple=replace(JOIN.tuple, protocol=2, service_port=0), source_port=0),
    "a newer release's reason": denial(reason=DropReason.UNKNOWN),
    "refused": outcome(),
    "an answer of HTTP": outcome(Cause.HTTP_STATUS, 403),
    "a caller that is known": replace(denial(), pid=41, comm="python3"),
    "a request": replace(
        denial(reason=DropReason.REQUEST),
        nearest=None,
        hook=Hook.EGRESS,
        request=Request("POST", "api.internal", "/admin/\x01\xc3\xbc"),
    ),
    "a tunnel": replace(
        denial(verdict=Verdict.AUDIT, reason=DropReason.REQUEST),
        nearest=None,
        hook=Hook.EGRESS,
        request=Request("CONNECT", "evil.net", port=443),
    ),
    "no request": replace(
        denial(reason=DropReason.NO_HTTP), nearest=None, hook=Hook.EGRESS, request=Request("", "", "")
    ),
    "to a name": flow(peer=PeerName(PeerKind.FQDN, "api.example.com"), address="203.0.113.9"),
}


def parsed(seen: Flow | Denial | Outcome) -> list[dict[str, object]]:
    return [json.loads(line)["flow"] for line in lines_of(seen, "n1", "0.1.0")]


def test_the_golden_file_has_every_shape() -> None:
    """A change of a line is a change of what tools read: look at the difference, then write the file anew."""
    made = [line.decode() for seen in SHAPES.values() for line in lines_of(seen, "n1", "0.1.0")]
    assert made == GOLDEN.read_text(encoding="ascii").splitlines(keepends=True)


@pytest.mark.parametrize("name", SHAPES)
def test_no_line_has_a_field_that_hubble_does_not_know(name: str) -> None:
    known = {
        "time", "uuid", "verdict", "drop_reason", "drop_reason_desc", "IP", "l4", "source", "destination", "Type",
        "node_name", "destination_service", "source_service", "event_type", "policy_match_type", "traffic_direction",
        "trace_observation_point", "is_reply", "socket_cookie", "cgroup_id", "emitter", "Summary", "extensions",
        "egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by", "destination_names",
        "l7",
    }  # fmt: skip
    for line in parsed(SHAPES[name]):
        assert line.keys() <= known
        assert line["extensions"].keys() == {"@type", "value"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHAPES)
def test_a_line_is_its_document(name: str) -> None:
    lines = lines_of(SHAPES[name], "n1", "0.1.0")
    assert [json.loads(line) for line in lines] == documents_of(SHAPES[name], "n1", "0.1.0")
    assert len(lines) == lines_in(SHAPES[name])


def test_half_a_pair_of_surrogates_is_replaced() -> None:
    """Neither protojson's readers nor protobuf's text take one; a whole pair is a character like others."""
    (line,) = lines_of(flow(peer=PeerName(PeerKind.POD, "a\ud800b \U0001f600")), "n1", "0.1.0")
    assert json.loads(line)["flow"]["extensions"]["value"]["peer"] == "a\ufffdb \U0001f600"


@pytest.mark.parametrize("name", SHAPES)
def test_every_line_has_both_ends(name: str) -> None:
    for line in parsed(SHAPES[name]):
        ends = line["IP"]
        assert isinstance(ends, dict)
        there = {"source", "ipVersion"} | ({"destination"} if name not in ("raw socket", "refused family") else set())
        assert ends.keys() == there
        assert "10.0.0.7" in ends.values() or "2001:db8:1::7" in ends.values()


def test_a_summary_cannot_steer_a_terminal() -> None:
    """Hubble's tables print it as it is."""
    (line,) = parsed(flow(peer=PeerName(PeerKind.POD, "a\x1b[2J\u202eb")))
    assert line["Summary"].isprintable()  # type: ignore[attr-defined]
    assert r"a\x1b[2J\u202eb" in line["Summary"]  # type: ignore[operator]
    assert line["extensions"]["value"]["peer"] == "a\x1b[2J\u202eb"  # type: ignore[index]


def test_a_denial_is_a_policy_verdict_beside_a_drop() -> None:
    verdict, drop = parsed(SHAPES["deny rule"])
    assert (verdict["event_type"], verdict["verdict"]) == ({"type": 5}, "DROPPED")
    assert verdict["egress_denied_by"] == [
        {"name": "no-metadata", "namespace": "", "kind": "ClusterTaskNetworkPolicy"}
    ]
    assert verdict["policy_match_type"] == 1
    assert (drop["event_type"], drop["verdict"]) == ({"type": 1, "sub_type": 181}, "DROPPED")
    assert verdict["uuid"] != drop["uuid"]


def test_what_passed_in_audit_is_forwarded_and_marked() -> None:
    (line,) = parsed(SHAPES["passed in audit"])
    assert (line["verdict"], line["event_type"]) == ("FORWARDED", {"type": 4, "sub_type": 5})
    assert "egress_allowed_by" not in line
    assert line["extensions"]["value"]["verdict"] == "audit"  # type: ignore[index]
    (verdict,) = parsed(SHAPES["audit"])
    assert (verdict["verdict"], verdict["event_type"]) == ("AUDIT", {"type": 5})


def test_incoming_lines_have_our_port_at_our_address() -> None:
    (line,) = parsed(SHAPES["datagrams from a client's port"])
    assert line["l4"] == {"UDP": {"source_port": 40_001, "destination_port": 8125}}
    assert line["IP"] == {"source": "192.0.2.9", "destination": "10.0.0.7", "ipVersion": "IPv4"}
    (flow_line,) = parsed(flow(direction=INGRESS, port=8080))
    assert flow_line["Summary"] == (
        "TCP from 192.0.2.9 (world) to port 8080: 300 B sent, 5000 B received, 1 connections"
    )


@pytest.mark.parametrize(
    ("peer", "number"),
    [(NODE, 1), (OTHER_NODE, 6), (API_SERVER, 7), (replace(NODE, place=Place.API_SERVER), 7), (WORLD, 2)],
)
def test_places_have_hubble_s_numbers(peer: PeerName, number: int) -> None:
    assert parsed(flow(peer=peer))[0]["destination"]["identity"] == number  # type: ignore[index]


@pytest.mark.parametrize("name", ["to a task's pod", "to a service's pod"])
def test_a_peer_s_pod_is_named_whole(name: str) -> None:
    end = parsed(SHAPES[name])[0]["destination"]
    assert isinstance(end, dict)
    assert (end["pod_name"], end["namespace"], end["cluster_name"]) == ("sales-extract-x1", "airflow", "prod")
    assert end["workloads"] == [{"name": "sales", "kind": "DAG"}]
    assert end["identity"] == identity_number(TASK) != identity_number(endpoint().identity)


def test_identity_numbers_are_those_of_pods() -> None:
    """0 to 255 are reserved, up to 65,535 may be another cluster's, from 1 << 24 on they are CIDRs of one node."""
    numbers = {identity_number(endpoint(f"dag-{n}").identity) for n in range(2000)}
    assert len(numbers) > 1990
    assert all(1 << 16 <= number < 1 << 24 for number in numbers)


@pytest.mark.parametrize("reason", DropReason)
def test_no_reason_reads_success(reason: DropReason) -> None:
    _, drop = parsed(denial(reason=reason))
    assert DROP_REASONS[reason][0] >= 130
    assert drop["drop_reason"] == drop["event_type"]["sub_type"] == DROP_REASONS[reason][0]  # type: ignore[index]


def test_group_messages_are_igmp() -> None:
    verdict, _ = parsed(SHAPES["group membership"])
    assert verdict["l4"] == {"IGMP": {}}


def test_equal_lines_have_one_uuid() -> None:
    assert parsed(flow()) == parsed(flow())
    assert parsed(flow())[0]["uuid"] != parsed(flow(time=1.6))[0]["uuid"]


NAMED = PeerName(PeerKind.FQDN, "api.stripe.com")
FAILED = FailedLookup(
    1_700_000_000.5, endpoint(), Tuple(ip_address("10.96.0.10"), 17, 53, Direction.EGRESS),
    PeerName(PeerKind.SERVICE, "kube-system/kube-dns"), "db.internal", "AAAA", "NXDOMAIN",
)  # fmt: skip


def test_a_name_that_was_asked_for_is_the_destination_s() -> None:
    """`hubble observe --to-fqdn`: FlowFilter.destination_fqdn reads destination_names."""
    (line,) = parsed(flow(peer=NAMED))
    assert line["destination_names"] == ["api.stripe.com"]
    assert line["destination"] == {"identity": 2, "labels": ["reserved:world", "fqdn:api.stripe.com"]}
    (line,) = parsed(flow(peer=NAMED, direction=INGRESS))
    assert line["source_names"] == ["api.stripe.com"]


def test_a_name_that_was_asked_for_in_vain_is_an_answer_on_layer_7() -> None:
    line = json.loads(lines_of(FAILED, "n1", "0.1.0")[0])["flow"]
    assert (line["Type"], line["event_type"], line["verdict"], line["is_reply"]) == (
        "L7",
        {"type": 129},
        "FORWARDED",
        True,
    )
    assert line["l7"] == {
        "type": "RESPONSE",
        "dns": {"query": "db.internal.", "rcode": 3, "qtypes": ["AAAA"], "observation_source": "dagwall"},
    }
    assert line["IP"] == {"source": "10.96.0.10", "destination": "10.0.0.7", "ipVersion": "IPv4"}
    assert line["source"]["namespace"] == "kube-system"
    assert line["destination"]["pod_name"] == "finance-load-x1"
    assert line["Summary"] == "DNS: NXDOMAIN for db.internal (AAAA)"
    assert line["extensions"]["value"]["dag_id"] == "finance"


def test_a_silent_dns_server_is_an_error_without_a_name() -> None:
    (document,) = documents_of(replace(FAILED, name="", record="", rcode=NO_ANSWER), "n1", "0.1.0")
    line = document["flow"]
    assert (line["verdict"], line["Summary"]) == ("ERROR", "DNS: no answer")
    assert line["l7"]["dns"] == {"observation_source": "dagwall"}


def test_a_connection_that_failed_is_an_error_with_its_cause() -> None:
    (line,) = parsed(outcome(Cause.HTTP_STATUS, 403))
    told = line["extensions"]["value"]  # type: ignore[index]
    assert line["verdict"] == "ERROR"
    assert {
        "verdict": "allow",
        "reason": "http_status",
        "detail": "403",
        "pid": 41,
        "comm": "python3",
    }.items() <= told.items()
    assert told["timing"]["first_byte"] == 0.25


def test_a_request_that_is_denied_is_a_line_of_layer_7() -> None:
    (line,) = parsed(SHAPES["a request"])
    assert (line["Type"], line["verdict"]) == ("L7", "DROPPED")
    http = {"method": "POST", "url": "http://api.internal/admin/%2Fü", "protocol": "HTTP/1.1"}
    assert line["l7"] == {"type": "REQUEST", "http": http}
    assert str(line["Summary"]).startswith("denied: POST http://api.internal/admin/%2Fü to ")
    (line,) = parsed(SHAPES["a tunnel"])
    assert line["verdict"] == "AUDIT"
    assert "CONNECT evil.net:443" in str(line["Summary"])
    assert len(parsed(SHAPES["no request"])) == 2
