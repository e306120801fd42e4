"""Rows of ABI 5, which had port classes, judge every port as the prefixes that they become do."""

from __future__ import annotations

from random import Random

import pytest

from agent.abi.layout import Layout, raw, u8, u16, u32
from agent.abi.schema import Table, fields_of
from agent.abi.structs import RULE, RULE_KEY, U32, U64, pack_rule_key
from agent.kernel.former_rules import FORMER_KEY, has_port_classes, rows_by_prefix
from agent.model.want import port_index

FORMER_RULE = Layout("rule", rule=u32, verdict=u8, reason=u8, lift=u16)
WITHOUT_LENGTH = Layout("rule_key", ruleset=u32, peer_class=u32, port_class=u32, direction=u8, pad=raw(3))
"""Until ABI 2 it was a hash's key."""
PROBES = [(p, port) for p in (6, 17, 132) for port in range(12)] + [(p, 0) for p in (1, 2, 47, 58)]
PROBES += [(6, 65535), (17, 65535), (132, 65535)]


def table(key: Layout, value: Layout = FORMER_RULE) -> Table:
    return Table(fields_of(key), fields_of(value), key.size, value.size, per_cpu=False, entries=0)


def former_index(protocol: int, port: int) -> int:
    return {6: port, 17: 65536 + port, 132: 131072 + port}.get(protocol, 196608 + protocol)


@pytest.mark.parametrize("key", [FORMER_KEY, WITHOUT_LENGTH], ids=["trie", "hash"])
@pytest.mark.parametrize("seed", range(40))
def test_every_port_keeps_its_verdict(seed: int, key: Layout) -> None:
    r = Random(seed)
    classes = {former_index(*probe): r.choice((0, 2, 3, 4)) for probe in r.sample(PROBES, 20)}
    groups = [(ruleset, peer, direction) for ruleset in (1, 2) for peer in (0, 7) for direction in (0, 1)]
    rows = {
        (*group, number): (r.randint(1, 9), r.randint(0, 2), r.randint(0, 3))
        for group in groups
        for number in r.sample(range(5), 3)
    }
    length = {"length": 128} if "length" in key.fields else {}
    rules = [
        (
            key.pack(**length, ruleset=a, peer_class=b, direction=c, port_class=d),
            FORMER_RULE.pack(rule=rule, verdict=verdict, lift=lift),
        )
        for (a, b, c, d), (rule, verdict, lift) in rows.items()
    ]
    ports = [(U32.pack(value=index), U64.pack(value=number)) for index, number in classes.items()]
    assert has_port_classes(table(key))
    found = {
        key_now: RULE.unpack(value)
        for key_now, value in rows_by_prefix(rules, ports, table(key), table(RULE_KEY, RULE))
    }
    for group in groups:
        for protocol, port in PROBES:
            any_class = 0 if protocol in (1, 6, 17, 58) else 1
            mentioned = classes.get(former_index(protocol, port), 0) or any_class
            was = rows.get((*group, mentioned)) or rows.get((*group, any_class))
            index = port_index(protocol, port)
            around = (pack_rule_key(*group, (index >> n << n, 32 - n)) for n in range(33))
            is_ = next((found[each] for each in around if each in found), None)
            assert (is_ and (is_["rule"], is_["verdict"], is_["lift"])) == was
            assert is_ is None or not is_["hellos"]
