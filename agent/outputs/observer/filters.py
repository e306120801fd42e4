"""Hubble's FlowFilter, judged on the lines of the flow log. Pure.

A flow passes a filter if it has one of the values of each field that is set; a list of filters if it passes one of
them. A field of which our flows have no value is refused by name: left out, it would show what was not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from agent.errors import DagwallError
from agent.outputs.observer.patterns import label_of, label_pattern, name_pattern, node_pattern, text_pattern

Flow = Mapping[str, Any]
Values = Sequence[Any]
Test = Callable[[Flow], bool]
MAX_FILTERS, MAX_VALUES, MAX_TEXT = 64, 256, 1024

_L4 = {
    "icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",), "icmpv6": ("ICMPv6",), "tcp": ("TCP",), "udp": ("UDP",),
    "sctp": ("SCTP",), "igmp": ("IGMP",), "vrrp": (),
}  # fmt: skip
_L7 = ("dns", "http", "kafka")


class BadFilter(DagwallError):
    """A filter that cannot be judged: it names the field, and what is allowed."""


def _end(side: str, field: str) -> Callable[[Flow], Any]:
    return lambda flow: flow.get(side, {}).get(field)


def _one_of(values: Values, of: Callable[[Flow], Any]) -> Test:
    wanted = frozenset(values)
    return lambda flow: of(flow) in wanted


def _field(name: str) -> Callable[[Values], Test]:
    return lambda values: _one_of(values, lambda flow: flow.get(name))


def _of_end(side: str, field: str) -> Callable[[Values], Test]:
    return lambda values: _one_of(values, _end(side, field))


def _address(end: str) -> Callable[[Values], Test]:
    def test(values: Values) -> Test:
        networks = [ip_network(value, strict=False) for value in values]

        def passes(flow: Flow) -> bool:
            text = flow["IP"].get(end, "")
            return bool(text) and any(ip_address(text) in network for network in networks)

        return passes

    return test


def _named(of: str, field: str) -> Callable[[Values], Test]:
    """`NAMESPACE/PREFIX`; without a slash it is the namespace `default`, as in Hubble."""

    def test(values: Values) -> Test:
        if not all(values):
            raise ValueError("must be NAMESPACE/NAME or NAME, not empty")
        wanted = [value.split("/", 2)[:2] if "/" in value else ["default", value] for value in values]

        def passes(flow: Flow) -> bool:
            namespace, name = _end(of, "namespace")(flow) or "", _end(of, field)(flow) or ""
            return bool(namespace or name) and any(
                (not of_namespace or of_namespace == namespace) and name.startswith(prefix)
                for of_namespace, prefix in wanted
            )

        return passes

    return test


def _labelled(side: str) -> Callable[[Values], Test]:
    def test(values: Values) -> Test:
        patterns = [label_pattern(value) for value in values]

        def passes(flow: Flow) -> bool:
            labels = [label_of(text) for text in _end(side, "labels")(flow) or ()]
            return any(pattern.matches(labels) for pattern in patterns)

        return passes

    return test


def _workload(side: str) -> Callable[[Values], Test]:
    def passes(values: Values, flow: Flow) -> bool:
        return any(
            all(each.get(key) == value for key, value in wanted.items())
            for each in _end(side, "workloads")(flow) or ()
            for wanted in values
        )

    return lambda values: lambda flow: passes(values, flow)


def _any_text(
    make: Callable[[str], Callable[[str], bool]], of: Callable[[Flow], Iterable[str]]
) -> Callable[[Values], Test]:
    """One of the texts fits one of the patterns."""

    def test(values: Values) -> Test:
        patterns = [make(value) for value in values]
        return lambda flow: any(pattern(text) for text in of(flow) for pattern in patterns)

    return test


def _port(field: str) -> Callable[[Values], Test]:
    def test(values: Values) -> Test:
        if not all(value.isascii() and value.isdigit() and int(value) < 1 << 16 for value in values):
            raise ValueError("must be a port number from 0 to 65535")
        wanted = {int(value) for value in values}
        return lambda flow: any(
            "destination_port" in ports and ports.get(field, 0) in wanted for ports in flow["l4"].values()
        )

    return test


def _protocol(values: Values) -> Test:
    words = [value.lower() for value in values]
    if unknown := [word for word in words if word not in _L4 and word not in _L7]:
        raise ValueError(f"must be one of {', '.join((*_L4, *_L7))}, not {unknown[0]!r}")
    layer4 = {name for word in words for name in _L4.get(word, ())}
    return lambda flow: bool(layer4 & flow["l4"].keys()) or any(word in flow.get("l7", {}) for word in words)


def _event_type(values: Values) -> Test:
    def fits(wanted: Mapping[str, Any], kind: Mapping[str, Any]) -> bool:
        return wanted.get("type", 0) in (0, kind["type"]) and (
            not wanted.get("match_sub_type") or wanted.get("sub_type", 0) == kind.get("sub_type", 0)
        )

    return lambda flow: any(fits(wanted, flow["event_type"]) for wanted in values)


def _tcp_flags(values: Values) -> Test:
    def passes(flow: Flow) -> bool:
        flags = flow["l4"].get("TCP", {}).get("flags")
        return flags is not None and any(all(flags.get(name) for name in wanted) for wanted in values)

    return passes


def _query(flow: Flow) -> Iterable[str]:
    found = flow.get("l7", {}).get("dns")
    return (found["query"],) if found else ()


def _both_ways(name: str, make: Callable[[str], Callable[[Values], Test]]) -> dict[str, Callable[[Values], Test]]:
    return {f"{side}_{name}": make(side) for side in ("source", "destination")}


FILTERS: dict[str, Callable[[Values], Test]] = {
    "verdict": _field("verdict"),
    "uuid": _field("uuid"),
    "traffic_direction": _field("traffic_direction"),
    "drop_reason_desc": _field("drop_reason_desc"),
    "reply": _field("is_reply"),
    "ip_version": _of_end("IP", "ipVersion"),
    "event_type": _event_type,
    "protocol": _protocol,
    "tcp_flags": _tcp_flags,
    "node_name": _any_text(node_pattern, lambda flow: (flow["node_name"],)),
    "dns_query": _any_text(lambda text: text_pattern(text).found_in, _query),
    **_both_ways("ip", _address),
    **_both_ways("pod", lambda side: _named(side, "pod_name")),
    **_both_ways("service", lambda side: _named(f"{side}_service", "name")),
    **_both_ways("fqdn", lambda side: _any_text(name_pattern, lambda flow: flow.get(f"{side}_names", ()))),
    **_both_ways("label", _labelled),
    **_both_ways("port", lambda side: _port(f"{side}_port")),
    **_both_ways("identity", lambda side: _of_end(side, "identity")),
    **_both_ways("workload", _workload),
    **_both_ways("cluster_name", lambda side: _of_end(side, "cluster_name")),
}
"""By the field's name: from its values, as protojson has them, to a test of a flow. They raise ValueError."""


def filter_of(wanted: Sequence[Mapping[str, Values]], denied: Sequence[Mapping[str, Values]]) -> Test:
    """From a request's whitelist and blacklist, as protojson has them. Raises BadFilter."""
    if len(wanted) + len(denied) > MAX_FILTERS:
        raise BadFilter(f"at most {MAX_FILTERS} filters are read, not {len(wanted) + len(denied)}")
    allows, denies = [_all_of(each) for each in wanted], [_all_of(each) for each in denied]
    return lambda flow: (not allows or any(test(flow) for test in allows)) and not any(test(flow) for test in denies)


def _all_of(fields: Mapping[str, Values]) -> Test:
    tests = [_test(name, values) for name, values in fields.items()]
    return lambda flow: all(test(flow) for test in tests)


def _test(name: str, values: Values) -> Test:
    make = FILTERS.get(name)
    if make is None:
        raise BadFilter(f"filter {name}: dagwall's flows have no such value")
    if len(values) > MAX_VALUES or any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
        raise BadFilter(f"filter {name}: at most {MAX_VALUES} values of {MAX_TEXT} characters")
    try:
        return make(values)
    except ValueError as exc:
        raise BadFilter(f"filter {name}: {exc}") from exc
