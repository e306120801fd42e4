"""The compiler's parts by themselves: intervals, prefixes, numbers, ids."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from agent.compiler.compiler import whole
from agent.compiler.firsts import Firsts
from agent.compiler.interning import Interner, stable_number
from agent.compiler.ports import (
    EVERY_PORT,
    ORDINARY_PORTS,
    WHOLE,
    covers,
    covers_in_order,
    intersection,
    interval,
    last_of,
    own_parts,
    prefixes,
    rows_of,
    together,
)
from agent.compiler.prefixes import MAPPED, Lpm, compressed, cut, holds, host_of, memberships, prefix_of
from agent.compiler.refs import RuleRefs
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import (
    CidrPeer,
    DefaultPosture,
    Entity,
    EntityPeer,
    Policy,
    PolicyRef,
    PortMatch,
    Posture,
    Rule,
    RuleRef,
    Subject,
)
from agent.model.verdict import Direction
from agent.model.want import PORT_INDEXES, Sockets, port_index
from agent.semantics.selecting import id_claimed
from tests.unit import clusters

INTERVALS = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.lists(INTERVALS, max_size=12).map(tuple), max_size=4))
def test_ports_together_are_the_same_ports(each: list[tuple[tuple[int, int], ...]]) -> None:
    found = together(each)
    assert list(found) == sorted(found)
    for port in range(60):
        assert covers_in_order(found, port) == any(covers(ports, port) for ports in each)


EDGES = st.sampled_from([0, 1, 79, 80, 1023, 65534, 65535]) | st.integers(0, 65535)
RANGES = st.tuples(st.sampled_from([1, 6, 17, 47, 132]), EDGES, EDGES).map(
    lambda t: (port_index(t[0], min(t[1:])), port_index(t[0], max(t[1:])))
)


@given(RANGES)
def test_prefixes_are_the_interval_and_few(interval: tuple[int, int]) -> None:
    found = sorted(prefixes((interval,)))
    at = interval[0]
    for prefix in found:
        assert prefix[0] == at
        assert prefix[0] % (1 << (32 - prefix[1])) == 0
        at = last_of(prefix) + 1
    assert at == interval[1] + 1
    assert len(found) <= 30


def test_what_rules_often_mean_is_one_prefix() -> None:
    assert [rows_of(ports) for ports in (ORDINARY_PORTS, EVERY_PORT)] == [1, 1]
    assert rows_of((interval(PortMatch(6)),)) == 1
    assert rows_of((interval(PortMatch(6, 1, 65535)),)) == 16
    assert rows_of((interval(PortMatch(47)),)) == 1


@given(st.lists(RANGES, max_size=8))
def test_own_parts_are_where_no_longer_prefix_is(intervals: list[tuple[int, int]]) -> None:
    given_ = {WHOLE, *prefixes(intervals)}

    def longest(index: int) -> tuple[int, int]:
        return max((p for p in given_ if p[0] <= index <= last_of(p)), key=lambda p: p[1])

    found = dict(own_parts(given_))
    assert list(found) == sorted(found)
    assert all(longest(index) == prefix for prefix, index in found.items())
    for prefix in given_ - found.keys():
        assert longest(prefix[0]) != prefix
        assert longest(last_of(prefix)) != prefix


@given(st.lists(st.lists(INTERVALS, max_size=4), max_size=12))
def test_the_first_that_holds_a_port(each: list[list[tuple[int, int]]]) -> None:
    things = [(together([tuple(ports)]), i) for i, ports in enumerate(each)]
    found = Firsts.of(things)
    for port in (*range(60), PORT_INDEXES - 1):
        assert found.at(port) == next((i for ports, i in things if covers(ports, port)), None)


def test_intervals_of_matches() -> None:
    assert interval(PortMatch(6)) == (0x80000000, 0x8000FFFF)
    assert interval(PortMatch(17, 53)) == (0x80010035, 0x80010035)
    assert interval(PortMatch(132, 5, 9)) == (132 << 16 | 5, 132 << 16 | 9)
    assert interval(PortMatch(47)) == (47 << 16, 47 << 16)
    assert intersection(((0, 10), (20, 30)), ((5, 25),)) == ((5, 10), (20, 25))


def test_no_ports_are_four_protocols() -> None:
    """P4"""
    for protocol in range(256):
        assert covers(ORDINARY_PORTS, port_index(protocol, 0)) == (protocol in (1, 6, 17, 58))
        assert covers(EVERY_PORT, port_index(protocol, 65535))


def test_no_two_ports_have_one_index() -> None:
    with_ports = [port_index(protocol, port) for protocol in (6, 17, 132) for port in range(65536)]
    others = [port_index(protocol) for protocol in range(256) if protocol not in (6, 17, 132)]
    assert len({*with_ports, *others}) == 3 * 65536 + 253


@given(st.integers(0, 10**9))
def test_prefix_memberships_are_the_cidrs(seed: int) -> None:
    r = Random(seed)
    items = {clusters.cidr(r): frozenset([i]) for i in range(r.randint(0, 8))}
    found = memberships(items)
    for table in (found, dict(compressed(found))):
        lpm = Lpm(table)
        for address in clusters.ADDRESSES:
            should = {
                tag
                for item, tags in items.items()
                for tag in tags
                if address.version == item.network.version
                and address in item.network
                and not any(address in hole for hole in item.excluded)
            }
            assert lpm.get(host_of(address), frozenset()) == should


def test_ipv6_around_the_mapped_range_holds_no_ipv4() -> None:
    found = memberships({CidrPeer(ip_network("::/0")): frozenset("a"), CidrPeer(ip_network("::/64")): frozenset("b")})
    assert found[MAPPED] == frozenset()
    assert Lpm(found).get(host_of(ip_address("8.8.8.8")), frozenset("x")) == frozenset()
    assert Lpm(found).get(host_of(ip_address("::5")), frozenset()) == frozenset("ab")


def test_prefix_arithmetic() -> None:
    assert prefix_of(ip_network("10.0.0.0/8")) == ((0xFFFF << 32) + (10 << 24), 104)
    assert holds(MAPPED, prefix_of(ip_network("10.0.0.0/8")))
    assert not holds(prefix_of(ip_network("10.0.0.0/8")), MAPPED)
    assert cut(host_of(ip_address("10.1.2.3")), 104) == prefix_of(ip_network("10.0.0.0/8"))
    assert cut(2**128 - 1, 0) == (0, 0)
    assert Lpm({(0, 0): 1, (2**127, 1): 2}).get(2**128 - 1, 0, longest=0) == 1


def test_numbers_stay_and_are_another_contents_only_after_the_step() -> None:
    interner: Interner[str] = Interner(1, lambda key: key[0])  # contents with one first letter meet in one number
    first, second = interner.acquire("a1"), interner.acquire("a2")
    assert (interner.acquire("a1"), second) == (first, first + 1)
    assert list(interner.born()) == [("a1", first), ("a2", second)]
    interner.commit()
    interner.release("a2")
    assert interner.acquire("a3") == first + 2, "the second is free only after the step"
    assert list(interner.dead()) == [("a2", second)]
    assert interner.acquire("a2") == second, "back in the same step: as if nothing had happened"
    assert list(interner.dead()) == []
    assert list(interner.born()) == [("a3", first + 2)]
    interner.release("a2")
    interner.commit()
    assert interner.acquire("a4") == second


def test_born_and_dead_in_one_step_leaves_nothing() -> None:
    interner: Interner[str] = Interner(1, str)
    interner.acquire("a")
    interner.release("a")
    assert not list(interner.born())
    assert not list(interner.dead())


def test_small_numbers_are_left_to_those_that_mean_something() -> None:
    assert all(stable_number(str(i), 10, set(), bits=4) >= 10 for i in range(100))


def test_rules_that_come_back_have_their_old_numbers() -> None:
    refs = RuleRefs(kept=2)
    rules = [RuleRef(PolicyRef("", "k", "n"), str(i)) for i in range(5)]
    refs.acquire(rules)
    numbers = [refs.number(rule) for rule in rules]
    assert len(set(numbers)) == 5
    refs.release(rules)
    assert set(refs.names.values()) == {rules[3], rules[4]}
    refs.acquire([rules[4], rules[0]])
    assert [refs.number(rules[4]), refs.number(rules[0])] == [numbers[4], numbers[0]]
    assert refs.number(None) == 0


@pytest.mark.parametrize(
    ("pattern", "value", "ambiguous", "matches"),
    [
        ("a", "a", False, True),
        ("a*", "abc", False, True),
        ("*", "", False, False),
        ("A", "a", False, False),
        ("_private_dag", "private_dag-c80656058", True, True),
        ("_private_dag", "private_dag-c80656058", False, False),
        ("_private*", "private_dag-c80656058", True, False),
        ("private*", "private_dag-c80656058", True, False),
        ("private*", "private_dag", True, True),
        ("*", "private_dag-c80656058", True, True),
        ("**", "private_dag-c80656058", True, True),
        ("umsätze_täglich", "umstze_tglich-4b73fc8fa", True, True),
        ("private_dag-c80656058", "private_dag-c80656058", True, True),
    ],
)
def test_ids(pattern: str, value: str, ambiguous: bool, matches: bool) -> None:
    """P16, I1"""
    assert id_claimed(pattern, value, ambiguous=ambiguous) == matches


@pytest.mark.parametrize(
    ("posture", "namespace", "everything", "sockets"),
    [
        (Posture.ENFORCE, DefaultPosture.DENY, False, Sockets(raw=True)),
        (Posture.AUDIT, DefaultPosture.DENY, False, Sockets()),
        (Posture.AUDIT, DefaultPosture.OBSERVE, False, Sockets(audit=True)),
        (Posture.ENFORCE, DefaultPosture.DENY, True, Sockets(audit=True)),
    ],
)
def test_audit_refuses_no_socket(
    posture: Posture, namespace: DefaultPosture, everything: bool, sockets: Sockets
) -> None:
    """P3; who is isolated by an enforced policy or by default is granted nothing by one in audit."""
    identity = Identity("c", "etl", "sa", "dag", "load", Kind.KUBERNETES_EXECUTOR)
    rule = Rule("r", Direction.EGRESS, (EntityPeer(Entity.WORLD),), (PortMatch(6, 443),))
    policy = Policy(
        PolicyRef("etl", "TaskNetworkPolicy", "p"),
        Subject(dag_ids=("dag",)),
        (rule,),
        posture=posture,
        raw_sockets=True,
    )
    want = whole(
        Cluster(
            pods=Map({PodUid("u"): Pod(PodUid("u"), "etl", "p", Claim(identity, ()))}),
            namespaces=Map({"etl": Namespace("etl", managed=True, default_posture=namespace)}),
            policies=Map({policy.ref: policy}),
            settings=Settings(audit_everything=everything),
        )
    )
    (ruleset,) = want.rulesets.values()
    assert ruleset.sockets == sockets
