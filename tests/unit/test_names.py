"""DNS names as the policies, the compiler and the kernel's maps have them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.abi.structs import DNS_NAME, LEARNED, LEARNED_KEY, pack_address
from agent.compiler.atoms import NAMED, AtomId
from agent.compiler.names import classes_of_name, name_nodes
from agent.model.policy import FqdnPeer
from agent.model.want import Classes, PeerClass
from agent.semantics.names import matches
from agent.sync.entries import pack_name, unpack_name
from agent.sync.learned import forget, texts


@pytest.mark.parametrize(
    ("pattern", "name", "is_meant"),
    [
        ("api.example.org", "api.example.org", True),
        ("api.example.org", "x.api.example.org", False),
        ("*.example.org", "api.example.org", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "badexample.org", False),
        ("*.org", "example.org", True),
        ("*.org", "org", False),
    ],
)
def test_what_a_pattern_means(pattern: str, name: str, is_meant: bool) -> None:
    assert matches(pattern, name) is is_meant


def test_a_node_has_all_patterns_that_match_there() -> None:
    patterns = ("api.example.org", "*.example.org", "*.org", "example.net")
    numbers = {AtomId(1000 + i): FqdnPeer(pattern) for i, pattern in enumerate(patterns)}
    nodes = name_nodes(numbers)
    told = {node: {numbers[each].pattern for each in members if each != NAMED} for node, members in nodes.items()}
    assert told == {
        "api.example.org": {"api.example.org", "*.example.org", "*.org"},
        "*.example.org": {"*.example.org", "*.org"},
        "example.org": {"*.org"},
        "*.org": {"*.org"},
        "org": set(),
        "example.net": {"example.net"},
    }
    assert all((NAMED in members) == bool(told[node]) for node, members in nodes.items())


def test_a_name_falls_to_its_longest_node() -> None:
    names = {
        node: Classes(PeerClass(i), PeerClass(0)) for i, node in enumerate(("*.org", "*.example.org", "example.org"))
    }
    for name, node in (("a.example.org", 1), ("example.org", 2), ("other.org", 0), ("a.b.example.org", 1)):
        found = classes_of_name(names, name)
        assert found is not None
        assert found.peer == node
    assert classes_of_name(names, "example.net") is None
    assert classes_of_name(names, "org") is None


@pytest.mark.parametrize(
    "node", ["org", "api.example.org", "*.example.org", "*.org", "a-b._x.example.org", "x" * 63 + ".org"]
)
def test_a_key_of_the_trie_is_the_name_backwards(node: str) -> None:
    key = pack_name(node)
    assert unpack_name(key) == node
    assert len(key) == DNS_NAME.size


def test_a_suffix_is_a_prefix_of_longer_names_only() -> None:
    """The trie compares so many bits as the shorter key has."""

    def holds(outer: str, inner: str) -> bool:
        a, b = (DNS_NAME.unpack(pack_name(each)) for each in (outer, inner))
        return bool(a["length"] <= b["length"] and b["bytes"].startswith(a["bytes"][: a["length"] // 8]))

    assert holds("*.example.org", "api.example.org")
    assert holds("*.example.org", "*.a.example.org")
    assert holds("*.example.org", "example.org"), "so the name itself has a node of its own"
    assert not holds("*.example.org", "badexample.org")
    assert not holds("example.org", "api.example.org")
    assert not holds("api.example.org", "*.example.org")


class Learned(dict[bytes, bytes]):
    """Map `learned`."""

    def delete_all(self, keys: object) -> None:
        for key in keys:  # type: ignore[attr-defined]
            self.pop(key, None)


def test_what_was_learned_is_found_by_identity_and_address_and_forgotten_by_identity() -> None:
    """Every index that the kernel may use for an address is looked at, and no other identity's."""
    address, learned = pack_address(ip_address("203.0.113.7")), Learned()
    found = []
    for index in range(512):
        entry = LEARNED.pack(address=address, text=pack_name("api.example.org"))
        found.append(list(texts({"learned": {LEARNED_KEY.pack(identity=7, index=index): entry}}, 7, address)))
        learned[LEARNED_KEY.pack(identity=7, index=index)] = entry
        learned[LEARNED_KEY.pack(identity=8, index=index)] = entry
    assert sum(bool(each) for each in found) == 8, "the ways of one set"
    assert [unpack_name(text) for each in found for text in each] == ["api.example.org"] * 8
    assert not list(texts({"learned": learned}, 9, address))
    forget(learned, [7])
    assert {LEARNED_KEY.unpack(key)["identity"] for key in learned} == {8}
