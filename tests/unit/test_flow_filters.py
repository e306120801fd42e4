"""`dagwall flows` by either end, reversed, and in each form; the engine is that of Hubble's filters."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.model.external import ExternalIdentity, Party
from agent.model.flow import FailedLookup, PeerKind, PeerName, Tuple
from agent.model.verdict import Direction, DropReason, Hook, Verdict
from agent.outputs.ends import FIELDS
from agent.outputs.filtering import BadFilter, filter_of
from agent.outputs.records import Seen
from tests.unit.seen import denial, endpoint, flow
from tests.unit.test_cli_read import Agent

SALES = PeerName(PeerKind.POD, "airflow/sales/extract", endpoint("sales", "extract").identity, "sales-x1")
ROLE = ExternalIdentity(Party.AWS, "arn:aws:iam::1:role/etl")
TOKEN = ExternalIdentity(Party.OIDC, "system:serviceaccount:airflow:etl", "vault")
OUT = replace(
    flow(time=1, address="10.0.0.9", port=5432), peer=SALES, endpoint=replace(endpoint(), external=(ROLE, TOKEN))
)
IN = replace(flow(time=2, address="10.0.0.9", port=8080, direction=Direction.INGRESS), peer=SALES, source_port=41000)
BANK = replace(denial(time=3, address="203.0.113.9"), peer=PeerName(PeerKind.FQDN, "api.bank.example"), source_port=0)
DNS = FailedLookup(
    4, endpoint(), Tuple(ip_address("10.96.0.10"), 17, 53, Direction.EGRESS),
    PeerName(PeerKind.SERVICE, "kube-system/kube-dns"), "typo.example", "A", "NXDOMAIN",
)  # fmt: skip
PING = replace(
    flow(time=5, address="2001:db8::9", protocol=58, port=0), verdict=Verdict.AUDIT, reason=DropReason.NO_RULE
)
RAW = replace(denial(time=6, address="::", reason=DropReason.RAW_SOCKET), hook=Hook.SOCK_CREATE)
ALL: tuple[Seen, ...] = (OUT, IN, BANK, DNS, PING, RAW)

CASES: tuple[tuple[str, str, set[int]], ...] = (
    ("from_dag", "finance", {1, 3, 4, 5, 6}), ("from_dag", "sal*", {2}), ("to_dag", "sales", {1}),
    ("to_dag", "*", {1, 2}), ("to_task", "extract", {1}), ("from_task", "load", {1, 3, 4, 5, 6}),
    ("to_namespace", "kube-system", {4}), ("to_namespace", "airflow", {1, 2}),
    ("from_namespace", "airflow", set(range(1, 7))), ("from_service_account", "etl", set(range(1, 7))),
    ("service_account", "etl", set(range(1, 7))), ("to_service_account", "etl", {1, 2}),
    ("to_pod", "sales-*", {1}), ("from_pod", "airflow/sales-x1", {2}), ("from_pod", "db/sales-x1", set()),
    ("to_fqdn", "*.Bank.example.", {3}), ("fqdn", "api.bank.example", {3}), ("from_fqdn", "*", set()),
    ("to_ip", "10.0.0.0/24", {1, 2}), ("from_ip", "10.0.0.7", {1, 3, 4, 5, 6}), ("ip", "2001:db8::/64", {5}),
    ("ip", "10.0.0.9", {1, 2}), ("to_ip", "::", set()), ("to_port", "5432", {1, 3, 6}), ("from_port", "41000", {2}),
    ("to_port", "8080", {2}), ("port", "8080", {2}), ("port", "0", set()), ("from_port", "0", {1, 3, 4}),
    ("dag", "finance", set(range(1, 7))), ("pod", "finance-load-x1", set(range(1, 7))), ("namespace", "db", set()),
    ("task", "load", set(range(1, 7))), ("verdict", "allow", {1, 2, 4}), ("verdict", "audit", {5}),
    ("direction", "ingress", {2}), ("protocol", "udp", {4}), ("protocol", "ICMPv6", {5}),
    ("run", "manual__*", set(range(1, 7))), ("reason", "nxdomain", {4}), ("reason", "no rule", {3, 5}),
    ("external_identity", "aws:*:role/etl", {1}), ("from_external_identity", "arn:*", {1}),
    ("to_external_identity", "*", set()), ("external_identity", "oidc:*@vault", {1}),
    ("peer", "airflow/sales/*", {1, 2}), ("peer", "203.0.113.9", {3}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "value", "found"), CASES, ids=[f"{name}={value}" for name, value, _ in CASES])
def test_each_filter_and_its_reverse(name: str, value: str, found: set[int]) -> None:
    wanted, denied = filter_of(FIELDS, [{name: [value]}], []), filter_of(FIELDS, [], [{name: [value]}])
    assert {int(seen.time) for seen in ALL if wanted(seen)} == found
    assert {int(seen.time) for seen in ALL if denied(seen)} == set(range(1, 7)) - found


def test_each_filter_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == FIELDS.keys()


def test_values_of_one_filter_are_alternatives_and_filters_add_up() -> None:
    either = filter_of(FIELDS, [{"to_port": ["5432", "53"], "verdict": ["allow"]}], [])
    assert {int(seen.time) for seen in ALL if either(seen)} == {1, 4}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("from_ip", "10.0.0.300", "from_ip: '10.0.0.300'"), ("to_port", "http", "must be a port number"),
     ("verdict", "dropped", "must be one of deny, allow, audit, not 'dropped'"),
     ("direction", "up", "egress or ingress"),
     ("colour", "x", "have no such value")],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(BadFilter, match=said):
        filter_of(FIELDS, [{name: [value]}], [])


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    served = Agent(tmp_path)
    served.recent.flows([OUT, IN, PING])
    served.recent.denials([BANK, RAW])
    served.recent.lookups([DNS])
    yield served
    served.recent.stop()
    served.server.stop()


def times(agent: Agent, *words: str) -> set[int]:
    return {int(row["time"]) for row in json.loads(agent.ask("flows", *words, "-o", "json").output)}


def test_options_of_the_command(agent: Agent) -> None:
    assert times(agent, "--to-dag", "sales") == {1}
    assert times(agent, "--to-port", "5432", "--to-port", "53", "--verdict", "allow") == {1, 4}
    assert times(agent, "--not", "--to-dag", "sales", "--not", "--verdict=audit") == {2, 3, 4, 6}
    assert times(agent, "--verdict", "deny", "--verdict", "audit") == {3, 5, 6}
    assert times(agent, "--not", "-n", "airflow") == set()
    assert times(agent, "--not", "--port", "8080", "--dag", "finance") == {1, 3, 4, 5, 6}
    assert times(agent, "--since", "1970-01-01T00:00:03Z", "--until", "1970-01-01T00:00:04.500+00:00") == {3, 4}


@pytest.mark.parametrize("words", [["--not"], ["--not", "--last", "3"], ["--not", "to-port", "3"], ["--not", "-f"]])
def test_not_stands_before_a_filter(agent: Agent, words: list[str]) -> None:
    assert "--not: must stand before a filter" in agent.ask("flows", *words, code=2).output


def test_a_filter_that_cannot_be_read_is_one_line(agent: Agent) -> None:
    assert "filter to_ip: 'x'" in agent.ask("flows", "--to-ip", "x", code=1).output


def test_forms(agent: Agent) -> None:
    compact = agent.ask("flows", "--verdict", "deny", "--not", "--reason", "raw_socket", "-o", "compact").output
    assert compact.endswith(
        "airflow/finance-load-x1 (finance/load) -> api.bank.example 203.0.113.9:5432/TCP DENY (no rule)\n"
    )
    words = ("flows", "--reason", "nxdomain", "-o")
    assert "-> kube-system/kube-dns 10.96.0.10:53/UDP ALLOW (NXDOMAIN for typo.example (A))" in (
        agent.ask(*words, "compact").output
    )
    lines = agent.ask(*words, "dict").output.splitlines()
    assert "name: typo.example" in map(str.strip, lines)
    assert lines[-1] == "-" * 12
    assert agent.ask("flows", "--to-ip", "192.0.2.1", "-o", "dict").output == "no flows\n"


@pytest.mark.parametrize("form", ["compact", "dict", "table", "json"])
def test_forms_that_follow(agent: Agent, form: str) -> None:
    threading.Timer(0.3, agent.recent.stop).start()
    words = ("-f", "-o", form, "--fqdn", "api.bank.example", "--not", "--to-port", "443")
    shown = agent.ask("flows", *words).output
    assert ("203.0.113.9" in shown, "10.0.0.9" in shown) == (True, False)
