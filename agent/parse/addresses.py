"""Addresses, networks and protocols as Kubernetes objects write them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from agent.model.cluster import Address, ContainerPort
from agent.model.policy import Network
from agent.model.protocol import WITH_PORTS
from agent.parse.fields import Field, joined

PROTOCOLS = {protocol.name: int(protocol) for protocol in WITH_PORTS}
MAX_PORT = 65535
MAX_PORT_NAME = 63


def parse_address(field: Field) -> Address:
    """One address; IPv4 mapped into IPv6 is the IPv4 address, zones are refused."""
    text = field.nonempty()
    try:
        address = ip_address(text)
    except ValueError as exc:
        raise field.error(f"{text[:60]!r} is no IP address") from exc
    if not isinstance(address, IPv6Address):
        return address
    if address.scope_id is not None:
        raise field.error(f"{text[:60]!r}: an address with a zone names a link, not a peer")
    return address.ipv4_mapped or address


def parse_addresses(fields: Iterable[Field]) -> tuple[Address, ...]:
    """Addresses in their order, each once; empty ones are skipped, as objects in the making have them."""
    return tuple(dict.fromkeys(parse_address(field) for field in fields if field.value))


def parse_network(field: Field) -> Network:
    """A CIDR; host bits are cut off."""
    text = field.nonempty()
    try:
        return ip_network(text, strict=False)
    except ValueError as exc:
        raise field.error(f"{text[:60]!r} is no CIDR") from exc


def parse_protocol(field: Field) -> int:
    """The number of a protocol's name; TCP where there is none, as in the API."""
    number = PROTOCOLS.get(field.string("TCP"))
    if number is None:
        raise field.error(f"must be {joined(PROTOCOLS)}, not {str(field.value)[:60]!r}")
    return number


def parse_port_name(field: Field) -> str:
    name = field.string("")
    if len(name) > MAX_PORT_NAME:
        raise field.error(f"must have at most {MAX_PORT_NAME} characters, not {len(name)}")
    return name


def parse_port(port: Field, *, number: str) -> ContainerPort:
    """A port with a name and a protocol whose number stands in the field `number`."""
    return ContainerPort(
        name=parse_port_name(port.child("name")),
        protocol=parse_protocol(port.child("protocol")),
        port=port.child(number).integer(1, MAX_PORT),
    )
