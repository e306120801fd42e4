"""Services and endpoint slices (P13)."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.cluster import EndpointSlice, Service, ServicePort
from agent.parse.addresses import MAX_PORT, parse_addresses, parse_port, parse_port_name, parse_protocol
from agent.parse.claims import parse_labels, parse_name
from agent.parse.fields import Field

SERVICE_LABEL = "kubernetes.io/service-name"
MOST_ADDRESSES = MOST_PORTS = 1000
"""Of one object: many times what anybody needs, and what the API server allows endpoints of a slice."""


def parse_service(root: Field) -> Service:
    """A service. ExternalName services and headless ones have no addresses of their own."""
    metadata, spec = root.child("metadata"), root.child("spec")
    balancer = root.child("status").child("loadBalancer")
    fields = [*spec.child("clusterIPs").optional_items(MOST_ADDRESSES), spec.child("clusterIP")]
    external = [
        *spec.child("externalIPs").optional_items(MOST_ADDRESSES),
        *(entry.child("ip") for entry in balancer.child("ingress").optional_items(MOST_ADDRESSES)),
    ]
    return Service(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
        addresses=parse_addresses(field for field in fields if field.value != "None"),
        ports=tuple(_service_port(port) for port in spec.child("ports").optional_items(MOST_PORTS)),
        labels=parse_labels(metadata.child("labels")),
        external=parse_addresses(external),
    )


def _service_port(port: Field) -> ServicePort:
    return ServicePort(
        name=parse_port_name(port.child("name")),
        protocol=parse_protocol(port.child("protocol")),
        port=port.child("port").integer(1, MAX_PORT),
        target=_target(port.child("targetPort")),
    )


def _target(field: Field) -> int | str | None:
    """A number, also one in quotes, or the name of a container's port; None (or 0) is the service's own number."""
    if not field.value:
        return None
    if isinstance(field.value, int):
        return field.integer(1, MAX_PORT)
    text = parse_port_name(field)
    return Field(field.obj, field.path, int(text)).integer(1, MAX_PORT) if text.isdecimal() else text


def parse_endpoint_slice(root: Field) -> EndpointSlice:
    """All endpoints. `waiting`: those that kube-proxy does not choose, neither ready, nor serving while they end."""
    metadata = root.child("metadata")
    labels = dict(parse_labels(metadata.child("labels")))
    fqdn = root.child("addressType").string("") == "FQDN"
    ports = root.child("ports").optional_items(MOST_PORTS)
    endpoints = [] if fqdn else list(root.child("endpoints").optional_items(MOST_ADDRESSES))
    count = sum(1 for each in endpoints for _ in _addresses(each))
    if count > MOST_ADDRESSES:
        raise root.child("endpoints").error(f"have {count:,} addresses; at most {MOST_ADDRESSES:,} are allowed")
    serving = parse_addresses(address for each in endpoints if _serves(each) for address in _addresses(each))
    found = parse_addresses(address for each in endpoints for address in _addresses(each))
    return EndpointSlice(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
        service=labels.get(SERVICE_LABEL, ""),
        addresses=found,
        ports=tuple(parse_port(port, number="port") for port in ports if not port.child("port").absent),
        waiting=frozenset(found).difference(serving),
    )


def _addresses(endpoint: Field) -> Iterable[Field]:
    return endpoint.child("addresses").optional_items()


def _serves(endpoint: Field) -> bool:
    conditions = endpoint.child("conditions")
    ready = conditions.child("ready").boolean(default=True)  # absent: unknown, which counts as ready
    return ready or conditions.child("serving").boolean(default=False)
