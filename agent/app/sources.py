"""Where the agent can read the cluster from: a row each. What only one source has, its reports too, stands here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.config import Config
from agent.model.cluster import Settings
from agent.outputs.output import Output
from agent.sources.files import FilesSource
from agent.sources.last_valid import LastValid
from agent.sources.manifest_set import ManifestSet
from agent.sources.store import Store
from agent.sources.update import Source


@dataclass(frozen=True, slots=True)
class SourceKind:
    """`open` makes the source, `outputs` what reports to it; both raise DagwallError where they cannot begin.

    `clock`: seconds since the epoch, by which a claim counts as late (I2); None where whatever is read is trusted.
    """

    wanted: Callable[[Config], bool]
    open: Callable[[Config, Settings, Store], Source]
    outputs: Callable[[Config], Iterator[Output]]
    clock: Callable[[], float] | None = None


def _files(config: Config, settings: Settings, store: Store) -> Source:
    assert config.files is not None
    return FilesSource(config.files, store, ManifestSet(settings.cluster, config.managed_namespaces))


def _kubernetes(config: Config, settings: Settings, store: Store) -> Source:
    from agent.sources.kube_api import KubeApi  # noqa: PLC0415  17 MB that an agent on files does not need
    from agent.sources.kubernetes import KubernetesSource  # noqa: PLC0415

    api = KubeApi.connect(str(config.kubeconfig or ""))
    kept = LastValid(config.state / "last-valid.json")
    return KubernetesSource(api, store, config.node, settings.cluster, config.managed_namespaces, kept=kept)


def _kube_reports(config: Config) -> Iterator[Output]:
    from agent.outputs.kube.reports import KubeReports  # noqa: PLC0415
    from agent.sources.kube_api import KubeApi  # noqa: PLC0415

    yield KubeReports(KubeApi.connect(str(config.kubeconfig or "")), config.node)


SOURCES: tuple[SourceKind, ...] = (
    SourceKind(lambda config: config.files is not None, _files, lambda _: iter(())),
    SourceKind(lambda _: True, _kubernetes, _kube_reports, clock=time.time),
)
"""In the order in which they are asked whether the configuration wants them."""


def source_kind(config: Config) -> SourceKind:
    return next(kind for kind in SOURCES if kind.wanted(config))
