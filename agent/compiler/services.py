"""What a service's addresses and endpoints are to the terms of policies (P12, P13)."""

from __future__ import annotations

from collections.abc import Iterator

from agent.compiler.atoms import (
    AIRFLOW,
    CLUSTER,
    AtomId,
    AtomTable,
    Members,
    PortlessAtom,
    ServiceAtom,
    ServicePortAtom,
)
from agent.compiler.terms import entity_mark, entity_services
from agent.model.cluster import Cluster, EndpointSlice, Name, Service, ServicePort
from agent.semantics.entities import chart_namespaces, of_airflow_chart


def targets(service: Service, piece: EndpointSlice) -> Iterator[tuple[ServicePort, int]]:
    """The service's ports, each with the number at which the slice's endpoints serve it."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for target in piece.ports:
        numbers.setdefault((target.name, target.protocol), []).append(target.port)
    for port in service.ports:
        for number in numbers.get((port.name, port.protocol), ()):
            yield port, number


class ServiceAtoms:
    """Atoms of services that somebody asks about; of all others, only that they belong to the cluster."""

    def __init__(self, table: AtomTable, cluster: Cluster, asked: set[Name]) -> None:
        self.table, self.settings = table, cluster.settings
        self.entities = entity_services(cluster.settings)
        self.asked = asked | self.entities
        self._chart_namespaces = chart_namespaces(cluster)

    def of_service(self, service: Service) -> Members:
        """Of the service's own addresses."""
        atoms = {CLUSTER, *self._marks(service)}
        atoms.update(self._port(service, port, port.port) for port in service.ports if self._counts(service))
        return frozenset(atoms)

    def of_external(self, service: Service) -> Members:
        """Of addresses that the service's author has chosen: only what a rule that names the service asks."""
        name = (service.namespace, service.name)
        if name not in self.asked:
            return frozenset()
        ports = (
            ServicePortAtom(name, p.name, p.port, p.protocol, p.port, chart=False, base=False, external=True)
            for p in service.ports
        )
        return frozenset([self.table.number(ServiceAtom(name)), *map(self.table.number, ports)])

    def of_slice(self, piece: EndpointSlice, service: Service) -> Members:
        """Of endpoints, at the target ports that the slice names."""
        atoms = set(self._marks(service))
        if self._counts(service):
            atoms.update(self._port(service, port, target) for port, target in targets(service, piece))
            if not service.ports:
                atoms.add(self.table.number(PortlessAtom((service.namespace, service.name))))
        return frozenset(atoms)

    def _counts(self, service: Service) -> bool:
        return (service.namespace, service.name) in self.asked or self._of_chart(service)

    def _of_chart(self, service: Service) -> bool:
        return of_airflow_chart(service, self._chart_namespaces)

    def _marks(self, service: Service) -> Iterator[AtomId]:
        name = (service.namespace, service.name)
        yield from entity_mark(name, self.settings)
        if name in self.asked:
            yield self.table.number(ServiceAtom(name))
        if self._of_chart(service):
            yield AIRFLOW

    def _port(self, service: Service, port: ServicePort, number: int) -> AtomId:
        name, chart = (service.namespace, service.name), self._of_chart(service)
        base = chart or name in self.entities
        return self.table.number(ServicePortAtom(name, port.name, port.port, port.protocol, number, chart, base))
