"""Services and endpoint slices (P13)."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.cluster import EndpointSlice, Service, ServicePort
from agent.parse.addresses import MAX_PORT, parse_addresses, parse_port, parse_port_name, parse_protocol
from agent.parse.claims import parse_labels, parse_name
from agent.parse.fields import Field

SERVICE_LABEL = "kubernetes.io/service-name"


def parse_service(root: Field) -> Service:
    """A service. ExternalName services and headless ones have no addresses of their own."""
    metadata, spec = root.child("metadata"), root.child("spec")
    balancer = root.child("status").child("loadBalancer")
    fields = [
        *spec.child("clusterIPs").optional_items(),
        spec.child("clusterIP"),
        *spec.child("externalIPs").optional_items(),
        *(entry.child("ip") for entry in balancer.child("ingress").optional_items()),
    ]
    return Service(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
        addresses=parse_addresses(field for field in fields if field.value != "None"),
        ports=tuple(_service_port(port) for port in spec.child("ports").optional_items()),
        labels=parse_labels(metadata.child("labels")),
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
    """The endpoints that a service may choose: ready ones, and those that serve while they end (kube-proxy)."""
    metadata = root.child("metadata")
    labels = dict(parse_labels(metadata.child("labels")))
    fqdn = root.child("addressType").string("") == "FQDN"
    ports = root.child("ports").optional_items()
    return EndpointSlice(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
        service=labels.get(SERVICE_LABEL, ""),
        addresses=() if fqdn else parse_addresses(_serving(root)),
        ports=tuple(parse_port(port, number="port") for port in ports if not port.child("port").absent),
    )


def _serving(root: Field) -> Iterator[Field]:
    for endpoint in root.child("endpoints").optional_items():
        conditions = endpoint.child("conditions")
        ready = conditions.child("ready").boolean(default=True)  # absent: unknown, which counts as ready
        if ready or conditions.child("serving").boolean(default=False):
            yield from endpoint.child("addresses").optional_items()
