"""Rules with `tls`: as the compiler, the maps, the judge of open connections and the words have them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from immutables import Map

from agent.abi.names import server_of
from agent.abi.structs import (
    CLASSES,
    ENDPOINT,
    EVENT,
    GREETING,
    HELLO_EVENT,
    PREFIX,
    RULE,
    RULE_AUDITS_HELLO,
    SERVER_KEY,
    pack_address,
    pack_rule_key,
)
from agent.compiler.admission import Admission
from agent.compiler.compiler import Compiler
from agent.compiler.layers import Outcome
from agent.compiler.names import server_nodes, servers_of_name
from agent.compiler.revoking import _is_less
from agent.flows.decode import RawHello, decode_record
from agent.flows.lookups import AskedNames
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, Subject, Tls
from agent.model.verdict import Direction, EventKind, Verdict
from agent.model.want import Lift, RulesetId, Servers
from agent.outputs.words import demands_text
from agent.sync.carried import Greeting
from agent.sync.entries import pack_server, pack_servers
from agent.sync.intake import Intake
from agent.sync.verdicts import tcp_verdict
from bench import worst
from tests.unit.test_admission import BIG

ONE = RulesetId(1)
EXACT, WILD, ANY = (
    Tls(("api.example.org",)),
    Tls(("*.example.org", "db.internal")),
    Tls(nameless=True, encrypted=True),
)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("api.example.org", 0b111),
        ("x.api.example.org", 0b110),
        ("a.example.org", 0b110),
        ("example.org", 0b100),
        ("db.internal", 0b110),
        ("x.db.internal", 0b100),
        ("evil.net", 0b100),
        ("org", 0b100),
    ],
)
def test_a_server_name_has_the_bits_of_all_that_name_it(name: str, bits: int) -> None:
    servers = server_nodes(ONE, (EXACT, WILD, ANY))
    assert servers_of_name(servers, ONE, name) == Servers(bits, nameless=0b100, encrypted=0b100)


def test_a_hello_without_a_name_is_of_the_whole_ruleset() -> None:
    servers = server_nodes(ONE, (EXACT, WILD, ANY))
    assert servers_of_name(servers, ONE, "").nameless == 0b100
    assert servers_of_name(servers, RulesetId(2), "api.example.org") == Servers(0)
    assert server_nodes(ONE, ()) == {}


@pytest.mark.parametrize("name", ["a", "api.example.org", "x" * 63 + ".example"])
def test_a_key_has_its_name(name: str) -> None:
    key = pack_server((ONE, name))
    assert server_of(key) == name
    assert SERVER_KEY.unpack(key)["length"] == 32 + 8 * (len(name) + 2)
    assert SERVER_KEY.unpack(pack_server((ONE, "")))["length"] == 32
    wildcard, below = (SERVER_KEY.unpack(pack_server((ONE, each))) for each in ("*.b.c", "a.b.c"))
    own = SERVER_KEY.unpack(pack_server((ONE, "b.c")))
    assert below["bytes"].startswith(wildcard["bytes"][: wildcard["length"] // 8 - 4])
    assert own["bytes"].startswith(wildcard["bytes"][: wildcard["length"] // 8 - 4]), "hence a node of its own"


PASSES = Outcome(Verdict.ALLOW)


@pytest.mark.parametrize(
    ("before", "after", "is_less"),
    [
        (PASSES, replace(PASSES, demands=(EXACT,)), True),
        (replace(PASSES, demands=(EXACT,)), PASSES, False),
        (replace(PASSES, demands=(EXACT,)), replace(PASSES, demands=(EXACT, WILD)), False),
        (replace(PASSES, demands=(EXACT, WILD)), replace(PASSES, demands=(WILD,)), True),
        (PASSES, replace(PASSES, demands=(EXACT,), audits_hello=True), False),
        (replace(PASSES, demands=(EXACT,)), Outcome(Verdict.DENY), True),
        (Outcome(Verdict.DENY), replace(PASSES, demands=(EXACT,)), False),
        (Outcome(Verdict.AUDIT), replace(Outcome(Verdict.AUDIT), demands=(WILD,)), True),
    ],
)
def test_what_is_taken_away(before: Outcome, after: Outcome, is_less: bool) -> None:
    """P10"""
    assert _is_less(before, after) is is_less


def asking(ref: PolicyRef, *hellos: Tls) -> Policy:
    peer, port = CidrPeer(ip_network("192.0.2.0/24")), PortMatch(6, 443)
    rules = (Rule(f"r{i}", Direction.EGRESS, (peer,), (port,), tls=tls) for i, tls in enumerate(hellos))
    return Policy(ref, Subject(), egress=tuple(rules))


def ref(name: str) -> PolicyRef:
    return PolicyRef("etl", "TaskNetworkPolicy", name)


def taken(*policies: Policy, admission: Admission | None = None) -> tuple[Compiler, list[str], set[PolicyRef]]:
    """The compiler, what was refused and why, and what is in force."""
    gate = Intake(lambda *_: None, BIG.rules, admission or Admission())
    cluster = replace(worst.cluster(1), policies=Map({each.ref: each for each in policies}))
    compiler, found = gate.compiled(cluster)
    return compiler, [f"{error.obj}: {error.problem}" for error in gate.errors()], set(found.policies)


def test_a_kernel_that_cannot_judge_hellos_takes_no_policy_that_asks_for_some() -> None:
    """P18: it never weakens to a policy without them."""
    plain = Policy(ref("q"), Subject(), egress=())
    compiler, errors, found = taken(asking(ref("p"), EXACT), plain, admission=Admission(hellos=False))
    problem = "has rules with tls, which this kernel cannot judge: it lacks feature write_seq or sockops"
    assert errors == [f"{ref('p')}: {problem}"]
    assert found == {ref("q")}
    assert not compiler.want.servers


def test_more_kinds_of_hellos_than_a_row_has_bits_for_allow_nothing() -> None:
    """P17; equal ones are one."""
    many = tuple(Tls((f"n{i}.example",)) for i in range(30))
    compiler, errors, found = taken(
        asking(ref("big"), *many), asking(ref("small"), EXACT, WILD, ANY, many[0], many[0])
    )
    assert found == {ref("big"), ref("small")}
    assert [error.partition(" of its")[0] for error in errors] == [f"{ref('small')}: 2"]
    assert all(row.hellos for row in compiler.want.rules.values() if row.verdict is Verdict.ALLOW and row.demands)
    assert {server.named >> 31 for server in compiler.want.servers.values()} == {0}
    _, errors, found = taken(asking(ref("big"), *many), asking(ref("small"), many[0], many[1]))
    assert (errors, found) == ([], {ref("big"), ref("small")})


def test_more_server_names_than_the_map_holds_are_refused_of_whoever_has_most() -> None:
    many = Tls(tuple(f"*.n{i}.example" for i in range(16_000)))
    compiler, errors, found = taken(asking(ref("big"), many), asking(ref("small"), WILD))
    assert found == {ref("small")}
    assert "TLS server names of rules" in errors[0]
    assert len(compiler.want.servers) == 4


def test_entries_go_with_the_ruleset_that_has_them() -> None:
    compiler, _, _ = taken(asking(ref("p"), EXACT))
    first = set(compiler.want.servers)
    cluster = replace(worst.cluster(1), policies=Map({ref("p"): asking(ref("p"), WILD)}))
    steps = compiler.steps(cluster)
    assert {key for key, value in steps[0].servers.items() if value is not None} == set(compiler.want.servers)
    assert {key for step in steps for key, value in step.servers.items() if value is None} == first
    assert not {key for key, value in steps[0].servers.items() if value is None}, "they go last"


class Maps(dict[str, dict[bytes, bytes]]):
    """Kernel maps; `servers` and `peers` answer by the longest prefix."""

    def __getitem__(self, name: str) -> Longest:  # type: ignore[override]
        return Longest(self.get(name, {}))


class Longest:
    def __init__(self, entries: dict[bytes, bytes]) -> None:
        self._entries = entries

    def get(self, key: bytes) -> bytes | None:
        bits, text = int.from_bytes(key[:4], "little"), key[4:]
        found = (
            (length, value)
            for each, value in self._entries.items()
            if (length := int.from_bytes(each[:4], "little")) <= bits
            and each[4 : 4 + length // 8] == text[: length // 8]
        )
        return max(found, default=(0, None))[1]


PEER = pack_address(ip_address("198.51.100.1"))
EVERY_PORT = (0, 0)
BASE = {"ruleset": 1, "identity": 7}


def verdict_of(row: bytes, greeting: Greeting) -> Verdict:
    """Of an open connection to PEER whose row this is."""
    servers = {pack_server(k): pack_servers(v) for k, v in server_nodes(ONE, (EXACT, WILD, ANY)).items()}
    maps = Maps(
        peers={PREFIX.pack(length=128, address=PEER): CLASSES.pack(peer=5, base=5)},
        rules={pack_rule_key(1, 5, int(Direction.EGRESS), EVERY_PORT): row},
        servers=servers,
    )
    endpoint = ENDPOINT.unpack(ENDPOINT.pack(**BASE))
    return tcp_verdict(maps, endpoint, Direction.EGRESS, PEER, 443, greeting)  # type: ignore[arg-type]


def began(name: str, **fields: int) -> Greeting:
    """With the key of another ruleset: the one that was the pod's then."""
    return Greeting(GREETING.pack(key=pack_server((RulesetId(9), name)), seen=1, **fields), has_sent=True)


@pytest.mark.parametrize(
    ("hellos", "greeting", "verdict"),
    [
        (0b001, began("api.example.org"), Verdict.ALLOW),
        (0b010, began("api.example.org"), Verdict.ALLOW),
        (0b001, began("a.example.org"), Verdict.DENY),
        (0b100, began(""), Verdict.ALLOW),
        (0b011, began(""), Verdict.DENY),
        (0b001, began("api.example.org", encrypted=1), Verdict.DENY),
        (0b101, began("api.example.org", encrypted=1), Verdict.ALLOW),
        (0b111, began("api.example.org", fault=16), Verdict.DENY),
        (0b001, Greeting(has_sent=True), Verdict.DENY),
        (0b001, Greeting(has_sent=False), Verdict.ALLOW),
        (0b001, Greeting(GREETING.pack(), has_sent=True), Verdict.DENY),
        (0, Greeting(has_sent=True), Verdict.ALLOW),
    ],
)
def test_an_open_connection_is_judged_by_what_it_began_with(
    hellos: int, greeting: Greeting, verdict: Verdict
) -> None:
    """P10: also where it is silent."""
    row = RULE.pack(verdict=int(Verdict.ALLOW), hellos=hellos)
    assert verdict_of(row, greeting) is verdict
    audited = RULE.pack(verdict=int(Verdict.ALLOW), hellos=hellos, flags=RULE_AUDITS_HELLO)
    assert verdict_of(audited, greeting) is Verdict.ALLOW
    lifted = RULE.pack(verdict=int(Verdict.ALLOW), hellos=hellos, lift=int(Lift.BY_NAME))
    assert verdict_of(lifted, greeting) is verdict, "no name is known by which it might pass"


def test_the_kernel_tells_for_which_server_a_connection_is() -> None:
    event = EVENT.pack(
        kind=int(EventKind.HELLO), slot=3, identity=4, peer=PEER, direction=int(Direction.EGRESS), protocol=6
    )
    greeting = GREETING.pack(key=pack_server((ONE, "api.example.org")), seen=1)
    record = decode_record(HELLO_EVENT.pack(event=event, greeting=greeting))
    assert isinstance(record, RawHello)
    assert (record.server, record.event.slot) == ("api.example.org", 3)
    names = AskedNames(lambda: 0.0)
    names.note((3, 4), record.event.peer, record.server)
    assert names.name((3, 4), ip_address("198.51.100.1")) == "api.example.org"
    assert names.name((4, 4), ip_address("198.51.100.1")) == ""


def test_words_for_what_a_connection_begins_with() -> None:
    assert demands_text((EXACT, ANY)) == (
        "a TLS hello for api.example.org, or a TLS hello for any server; it may be without a name or encrypted (ECH)"
    )
