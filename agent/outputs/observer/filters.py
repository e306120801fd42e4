"""Hubble's FlowFilter, judged on the lines of the flow log (agent/outputs/filtering.py). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from agent.outputs import filtering
from agent.outputs.filtering import BadFilter, Values, any_address, any_port, any_text, one_of
from agent.outputs.observer.patterns import label_of, label_pattern, name_pattern, node_pattern, text_pattern

Flow = Mapping[str, Any]
Test = filtering.Test[Flow]

_L4 = {
    "icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",), "icmpv6": ("ICMPv6",), "tcp": ("TCP",), "udp": ("UDP",),
    "sctp": ("SCTP",), "igmp": ("IGMP",), "vrrp": (),
}  # fmt: skip
_L7 = ("dns", "http", "kafka")


def _end(side: str, field: str) -> Callable[[Flow], Any]:
    return lambda flow: flow.get(side, {}).get(field)


def _field(name: str) -> Callable[[Values], Test]:
    return lambda values: one_of(values, lambda flow: flow.get(name))


def _of_end(side: str, field: str) -> Callable[[Values], Test]:
    return lambda values: one_of(values, _end(side, field))


def _address(end: str) -> Callable[[Values], Test]:
    def of(flow: Flow) -> Iterator[IPv4Address | IPv6Address]:
        if text := flow["IP"].get(end, ""):
            yield ip_address(text)

    return any_address(of)


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


def _port(field: str) -> Callable[[Values], Test]:
    def of(flow: Flow) -> int | None:
        return next((ports.get(field, 0) for ports in flow["l4"].values() if "destination_port" in ports), None)

    return any_port(of)


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
    return (found["query"],) if found and "query" in found else ()


def _http(field: str) -> Callable[[Flow], Iterable[str]]:
    """`method`, `url`, or the `path` in it; of what is no request of HTTP none."""

    def of(flow: Flow) -> Iterable[str]:
        found = flow.get("l7", {}).get("http")
        if not found:
            return ()
        return (urlsplit(found["url"]).path,) if field == "path" else (found[field],)

    return of


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
    "node_name": any_text(node_pattern, lambda flow: (flow["node_name"],)),
    "http_method": lambda values: one_of(
        [value.upper() for value in values], lambda flow: next(iter(_http("method")(flow)), None)
    ),
    "http_path": any_text(lambda text: text_pattern(text).found_in, _http("path")),
    "http_url": any_text(lambda text: text_pattern(text).found_in, _http("url")),
    "dns_query": any_text(lambda text: text_pattern(text).found_in, _query),
    **_both_ways("ip", _address),
    **_both_ways("pod", lambda side: _named(side, "pod_name")),
    **_both_ways("service", lambda side: _named(f"{side}_service", "name")),
    **_both_ways("fqdn", lambda side: any_text(name_pattern, lambda flow: flow.get(f"{side}_names", ()))),
    **_both_ways("label", _labelled),
    **_both_ways("port", lambda side: _port(f"{side}_port")),
    **_both_ways("identity", lambda side: _of_end(side, "identity")),
    **_both_ways("workload", _workload),
    **_both_ways("cluster_name", lambda side: _of_end(side, "cluster_name")),
}
"""By the field's name: from its values, as protojson has them, to a test of a flow. They raise ValueError."""


MAX_QUERIES = 1024
"""Characters of expressions: each sign of a name takes a step for each of theirs."""


def filter_of(wanted: Sequence[Mapping[str, Values]], denied: Sequence[Mapping[str, Values]]) -> Test:
    """From a request's whitelist and blacklist, as protojson has them. Raises BadFilter."""
    queries = sum(len(text) for fields in (*wanted, *denied) for text in fields.get("dns_query", ()))
    if queries > MAX_QUERIES:
        raise BadFilter(f"filter dns_query: at most {MAX_QUERIES:,} characters of all filters together are read")
    return filtering.filter_of(FILTERS, wanted, denied)
