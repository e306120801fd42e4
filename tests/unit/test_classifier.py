"""Pods that nobody can identify: loud when it takes long, and foreign ones pass where a folder is the whole truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.identity import PodUid
from agent.model.verdict import EndpointState
from agent.node import classifier as module
from agent.node.classifier import Classifier
from agent.sync.writer import Writer
from tests.unit.dictmaps import DictMaps
from tests.unit.test_sync_writer import A, cluster, started

FOREIGN = PodUid("cc7a1de5-1bf8-4567-ae3a-697995d1d600")


def with_stranger(folder: Path, *, whole_truth: bool) -> tuple[Classifier, Writer]:
    """A pod that no source knows; the kubelet's log folder says that it is CoreDNS."""
    writer = started(DictMaps(), cluster())
    writer.add_folder(FOREIGN, 30)
    (folder / f"kube-system_coredns-1_{FOREIGN}").mkdir(parents=True)
    found = Classifier(writer, folder, lambda _: None, known_here=True, whole_truth=whole_truth)
    found.classify_unknown()
    return found, writer


def test_a_folder_of_manifests_leaves_no_foreign_pod_pending(tmp_path: Path) -> None:
    _, writer = with_stranger(tmp_path, whole_truth=True)
    assert FOREIGN not in writer.pending()
    assert writer.endpoints.state_of(writer.endpoints.by_uid[FOREIGN]) is EndpointState.UNMANAGED


def test_a_pod_that_is_pending_for_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, writer = with_stranger(tmp_path, whole_truth=False)
    assert FOREIGN in writer.pending()
    assert found.overdue() == "", "moments are no trouble"
    monkeypatch.setattr(module, "PENDING_SECONDS", -1.0)
    assert found.overdue().startswith("pods that nobody can identify, nothing leaves them: ")
    assert f"kube-system/coredns-1 ({FOREIGN})" in found.overdue()
    assert str(A) in found.overdue()
    namespaces = writer.cluster.namespaces.set(
        "kube-system", replace(writer.cluster.namespaces["etl"], managed=False)
    )
    writer.cluster = replace(writer.cluster, namespaces=namespaces)
    found.classify_unknown()
    found.classify_unknown()  # which times those that are pending still
    assert "coredns" not in found.overdue()
