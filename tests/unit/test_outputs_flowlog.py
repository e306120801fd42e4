"""The flow log: Hubble's words, whole lines, rotation, and failures that harm nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.model.flow import Denial, Flow, PeerKind, PeerName
from agent.model.identity import Attestation
from agent.model.verdict import Direction, DropReason, Hook, Verdict
from agent.outputs.flowlog import FlowLog, RotatingFile
from agent.outputs.hubble import MAX_LINE_BYTES, lines_of
from agent.outputs.hubble_ends import identity_number
from agent.outputs.hubble_reasons import DROP_REASONS
from agent.outputs.words import WHY
from tests.unit.seen import NUMBER, denial, endpoint, flow


def parsed(seen: Flow | Denial) -> dict[str, object]:
    """The last line: of a denial, the drop."""
    return json.loads(lines_of(seen, "n1", "0.1.0")[-1])["flow"]  # type: ignore[no-any-return]


def ours(seen: Flow | Denial) -> dict[str, object]:
    return parsed(seen)["extensions"]["value"]  # type: ignore[index, no-any-return]


def test_a_line_is_the_exporter_s() -> None:
    line, _ = lines_of(denial(), "n1", "0.1.0")
    document = json.loads(line)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert document.keys() == {"flow", "node_name", "time"}
    assert document["time"] == "1970-01-01T00:00:02.500000Z"
    assert document["node_name"] == "prod/n1"


def test_the_worth_of_a_claim_is_the_endpoint_s() -> None:
    seen = denial()
    bound = replace(seen, endpoint=replace(seen.endpoint, attestation=Attestation.BOUND))
    assert (ours(seen)["attestation"], ours(bound)["attestation"]) == ("claimed", "bound")


def test_a_denial_in_hubble_s_words() -> None:
    got = parsed(denial())
    assert (got["verdict"], got["drop_reason"], got["drop_reason_desc"]) == ("DROPPED", 133, "POLICY_DENIED")
    assert got["event_type"] == {"type": 1, "sub_type": 133}
    assert got["IP"] == {"source": "10.0.0.7", "destination": "192.0.2.9", "ipVersion": "IPv4"}
    assert got["l4"] == {"TCP": {"source_port": 40000, "destination_port": 5432, "flags": {"SYN": True}}}
    assert got["source"] == {
        "ID": 3,
        "identity": identity_number(endpoint().identity),
        "cluster_name": "prod",
        "namespace": "airflow",
        "pod_name": "finance-load-x1",
        "labels": [
            "k8s:io.kubernetes.pod.namespace=airflow",
            "k8s:io.cilium.k8s.policy.cluster=prod",
            "k8s:io.cilium.k8s.policy.serviceaccount=etl",
            "k8s:dag_id=finance",
            "k8s:task_id=load",
        ],
        "workloads": [{"name": "finance", "kind": "DAG"}],
    }
    assert got["destination"] == {"identity": 2, "labels": ["reserved:world", "reserved:world-ipv4"]}
    assert (got["cgroup_id"], got["socket_cookie"]) == ("4711", "99")  # 64-bit numbers are strings in protojson
    assert (got["traffic_direction"], got["is_reply"], got["Type"]) == ("EGRESS", False, "L3_L4")
    assert got["Summary"] == (
        "denied: TCP to 192.0.2.9:5432 (world), no rule allows it; "
        "nearest: finance-egress/warehouse lacks port 5432/TCP"
    )


def test_a_raw_socket_has_no_peer() -> None:
    refused = replace(denial(reason=DropReason.RAW_SOCKET), hook=Hook.SOCK_CREATE, nearest=None)
    got = parsed(replace(refused, tuple=replace(refused.tuple, protocol=1, peer=ip_address("::"))))
    assert got["IP"] == {"source": "10.0.0.7", "ipVersion": "IPv4"}
    assert got["Summary"] == "denied: a raw ICMP socket, raw sockets need a policy with `rawSockets: true`"


def test_a_socket_of_a_refused_family_is_named() -> None:
    refused = replace(denial(reason=DropReason.SOCKET_FAMILY), hook=Hook.SOCKET_CREATE, family=17, nearest=None)
    got = parsed(replace(refused, tuple=replace(refused.tuple, protocol=0, peer=ip_address("::"))))
    assert (got["IP"], got["l4"]) == ({"source": "10.0.0.7", "ipVersion": "IPv4"}, {})
    assert got["Summary"] == "denied: an AF_PACKET socket, what it sends could not be judged"
    assert got["extensions"]["value"]["hook"] == "socket_create"  # type: ignore[index]


def test_our_own_facts_stand_beside() -> None:
    assert parsed(denial())["extensions"]["@type"] == "type.googleapis.com/google.protobuf.Struct"  # type: ignore[index]
    got = ours(denial())
    assert (got["run_id"], got["number"]) == ("manual__1", NUMBER)
    assert (got["dag_id"], got["task_id"], got["try_number"]) == ("finance", "load", "2")
    assert (got["peer"], got["reason"], got["hook"]) == ("world", "no_rule", "connect")
    assert ours(flow())["counts"] == {
        "sent_packets": 3, "sent_bytes": 300, "received_packets": 2, "received_bytes": 5000, "connections": 1
    }  # fmt: skip


def test_a_flow_names_the_rule_that_allowed_it() -> None:
    got = parsed(flow())
    assert got["verdict"] == "FORWARDED"
    assert got["egress_allowed_by"] == [
        {"name": "finance-egress", "namespace": "airflow", "kind": "TaskNetworkPolicy"}
    ]
    assert "drop_reason" not in got


def test_a_deny_rule_and_an_audit() -> None:
    rule = "ClusterTaskNetworkPolicy/no-metadata/deny[0]"
    got = parsed(denial(reason=DropReason.DENY_RULE, rule=rule, verdict=Verdict.AUDIT))
    assert (got["verdict"], got["event_type"], "drop_reason" in got) == ("AUDIT", {"type": 5}, False)
    assert got["egress_denied_by"] == [{"name": "no-metadata", "namespace": "", "kind": "ClusterTaskNetworkPolicy"}]


def test_for_ingress_the_ends_change_places() -> None:
    got = parsed(flow(direction=Direction.INGRESS, address="2001:db8::1"))
    assert got["destination"]["pod_name"] == "finance-load-x1"  # type: ignore[index]
    assert got["IP"] == {"source": "2001:db8::1", "destination": "2001:db8:1::7", "ipVersion": "IPv6"}
    assert got["source"]["labels"] == ["reserved:world", "reserved:world-ipv6"]  # type: ignore[index]


def test_peers_have_hubble_s_identities() -> None:
    assert parsed(flow(peer=PeerName(PeerKind.ENTITY, "node")))["destination"] == {
        "identity": 1, "labels": ["reserved:host"]
    }  # fmt: skip
    service = parsed(flow(peer=PeerName(PeerKind.SERVICE, "db/postgres")))
    assert service["destination_service"] == {"namespace": "db", "name": "postgres"}
    task = parsed(flow(peer=PeerName(PeerKind.POD, "airflow/b/c", endpoint("b", "c").identity)))
    assert "k8s:dag_id=b" in task["destination"]["labels"]  # type: ignore[index]


def test_every_reason_has_a_number_and_words() -> None:
    assert DROP_REASONS.keys() == set(DropReason)
    assert WHY.keys() == set(DropReason)


def test_no_line_is_longer_than_hubble_reads() -> None:
    monster = "\U0001f9e8" * 40_000  # four bytes each, twelve in JSON
    for seen in (flow(monster, peer=PeerName(PeerKind.CIDR, monster)), denial(monster, rule=f"A/{monster}/c")):
        for line in lines_of(seen, "n1", "0.1.0"):
            assert len(line) <= MAX_LINE_BYTES
            json.loads(line)


def kept_in(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_rotation_keeps_whole_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    file = RotatingFile(path, max_bytes=100, keep=3)
    written = [f"line {n:04d}\n".encode() for n in range(45)]
    for at in range(0, 45, 7):
        file.write(written[at : at + 7])
    file.close()
    kept = [line for n in (3, 2, 1) for line in kept_in(tmp_path / f"flows.log.{n}")] + kept_in(path)
    assert kept == [line.rstrip(b"\n") for line in written][-len(kept) :]
    assert len(kept) == 35  # 3 full files of 10, and 5
    assert all(p.stat().st_size <= 100 for p in tmp_path.iterdir())
    assert not (tmp_path / "flows.log.4").exists()


def test_an_earlier_agent_s_file_goes_on_and_a_cut_line_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    path.write_bytes(b"x" * 95)
    file = RotatingFile(path, max_bytes=100)
    file.write([b"one\n", b"two\n"])
    file.close()
    assert kept_in(tmp_path / "flows.log.1") == [b"x" * 95, b"one"]
    assert kept_in(path) == [b"two"]


def test_a_disk_that_refuses_is_counted_and_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    log = FlowLog(RotatingFile(folder / "flows.log"), "n1")
    log.write([flow(), flow()])
    log.write([flow()])
    assert log.losses()["flow_log_write"] == 3
    folder.unlink()
    log.write([flow()])
    assert len(kept_in(folder / "flows.log")) == 1


def test_the_full_device_loses_lines_not_the_agent() -> None:
    log = FlowLog(RotatingFile(Path("/dev/full")), "n1")
    log.write([flow()])
    log.write([flow()])
    assert log.losses()["flow_log_write"] == 2


def test_a_queue_that_is_full_loses_and_counts(tmp_path: Path) -> None:
    log = FlowLog(RotatingFile(tmp_path / "flows.log"), "n1", queued=3)
    log.flows([flow(), flow()])
    log.denials([denial(), denial()])
    log.denials([denial()])
    assert log.losses()["flow_log_queue"] == 2
    log.start()
    log.stop()
    assert [json.loads(line)["flow"]["verdict"] for line in kept_in(tmp_path / "flows.log")] == [
        "FORWARDED", "FORWARDED", "DROPPED", "DROPPED"
    ]  # fmt: skip
