"""Map `rules` until ABI 5: a row had a port class, which map `ports` gave a port. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from agent.abi.layout import Layout, raw, u8, u32
from agent.abi.schema import Table, converter, fields_of
from agent.abi.structs import pack_rule_key
from agent.compiler.ports import Interval, prefixes
from agent.model.protocol import WITH_PORTS
from agent.model.want import FIRST_ORDINARY, PortPrefix, port_index

FORMER_KEY = Layout("rule_key", length=u32, ruleset=u32, peer_class=u32, port_class=u32, direction=u8, pad=raw(3))
Item = tuple[bytes, bytes]
_ORDINARY, _OTHER = 0, 1
"""Port classes of what no policy named."""
_OF_PROTOCOL = 65536


def has_port_classes(table: Table) -> bool:
    return any(field.name == "port_class" for field in table.key)


def rows_by_prefix(rules: list[Item], ports: list[Item], before: Table, now: Table) -> list[Item]:
    """The same verdicts by prefixes of port indexes. `ports`: what that release had in its map of this name."""
    former_key = converter(before.key, fields_of(FORMER_KEY), FORMER_KEY.size)
    value_now = converter(before.value, now.value, now.value_size)
    of_class: dict[int, tuple[PortPrefix, ...]] = {_ORDINARY: ((FIRST_ORDINARY, 1),), _OTHER: ((0, 1),)}
    of_class |= {number: tuple(prefixes(intervals)) for number, intervals in _intervals(ports).items()}
    found: list[Item] = []
    for raw_key, value in rules:
        key = FORMER_KEY.unpack(former_key(raw_key))
        group = key["ruleset"], key["peer_class"], key["direction"]
        found += ((pack_rule_key(*group, each), value_now(value)) for each in of_class.get(key["port_class"], ()))
    return found


def _intervals(ports: list[Item]) -> dict[int, list[Interval]]:
    """By port class; neighbours of one class are one interval."""
    found: dict[int, list[Interval]] = {}
    for index, number in _classes(ports):
        of_class = found.setdefault(number, [])
        if of_class and of_class[-1][1] == index - 1:
            of_class[-1] = (of_class[-1][0], index)
        else:
            of_class.append((index, index))
    return found


def _classes(ports: list[Item]) -> Iterator[tuple[int, int]]:
    """Port indexes of now, in order, with the class that each had."""
    named = ((int.from_bytes(key, sys.byteorder), int.from_bytes(value, sys.byteorder)) for key, value in ports)
    return iter(sorted((_index(former), number) for former, number in named if number))


def _index(former: int) -> int:
    """TCP, UDP and SCTP had 65,536 numbers each, every other protocol had one behind them."""
    place, port = divmod(former, _OF_PROTOCOL)
    return port_index(WITH_PORTS[place], port) if place < len(WITH_PORTS) else port_index(port)
