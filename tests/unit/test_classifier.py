"""Pods that no snapshot has: who they are, how long they are pending, and when that is loud (L2, L3, L5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.model.classify import ClassifiedBy
from agent.model.identity import PodUid
from agent.model.verdict import EndpointState
from agent.node.classifier import PENDING_SECONDS, Classifier
from agent.sync.writer import Writer
from tests.unit.dictmaps import DictMaps
from tests.unit.fake_kernel import Clock
from tests.unit.test_sync_writer import A, cluster, started

FOREIGN = PodUid("cc7a1de5-1bf8-4567-ae3a-697995d1d600")


@dataclass
class Stranger:
    """A node with a pod that no source knows; the kubelet's log folder calls it CoreDNS."""

    folder: Path
    whole_truth: bool = False
    clock: Clock = field(default_factory=Clock)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.writer: Writer = started(DictMaps(), cluster())
        self.writer.add_folder(FOREIGN, 30)
        (self.folder / f"kube-system_coredns-1_{FOREIGN}").mkdir(parents=True)
        self.classifier = Classifier(
            self.writer, self.folder, self.waits.append, known_here=True, whole_truth=self.whole_truth,
            clock=self.clock,
        )  # fmt: skip

    def list_namespace(self) -> None:
        """The API answers: CoreDNS' namespace is not managed."""
        known = self.writer.cluster.namespaces
        namespaces = known.set("kube-system", replace(known["etl"], managed=False))
        self.writer.cluster = replace(self.writer.cluster, namespaces=namespaces)

    def state(self) -> EndpointState:
        return self.writer.endpoints.state_of(self.writer.endpoints.by_uid[FOREIGN])


def test_a_folder_of_manifests_leaves_no_foreign_pod_pending(tmp_path: Path) -> None:
    node = Stranger(tmp_path, whole_truth=True)
    node.classifier.classify_unknown()
    assert FOREIGN not in node.writer.pending()
    assert node.state() is EndpointState.UNMANAGED


def test_a_pod_that_is_pending_for_ten_seconds_is_named(tmp_path: Path) -> None:
    node = Stranger(tmp_path)
    node.classifier.classify_unknown()
    assert FOREIGN in node.writer.pending()
    node.clock.now += PENDING_SECONDS
    assert node.classifier.overdue() == ""
    node.clock.now += 0.1
    assert node.classifier.overdue().startswith("pods that nobody can identify, nothing leaves them: ")
    assert f"kube-system/coredns-1 ({FOREIGN})" in node.classifier.overdue()
    assert str(A) in node.classifier.overdue()
    node.list_namespace()
    node.classifier.classify_unknown()
    node.classifier.classify_unknown()  # which times those that are pending still
    assert "coredns" not in node.classifier.overdue()


def test_how_long_a_pod_was_pending_is_measured_once(tmp_path: Path) -> None:
    node = Stranger(tmp_path)
    node.classifier.classify_unknown()
    node.clock.now += 3.0
    node.list_namespace()
    for _ in range(3):
        node.classifier.classify_unknown()
    assert node.waits == [3.0]


def test_only_the_first_five_are_named(tmp_path: Path) -> None:
    node = Stranger(tmp_path)
    for n in range(6):
        node.writer.add_folder(PodUid(f"u{n}"), 100 + n)
    node.classifier.classify_unknown()
    node.clock.now += PENDING_SECONDS + 1
    assert node.classifier.overdue().endswith(" and 3 more")


def test_log_folders_that_cannot_be_listed_leave_pods_pending(tmp_path: Path) -> None:
    node = Stranger(tmp_path / "logs")
    node.list_namespace()
    node.classifier.log_folders = tmp_path / "logs" / f"kube-system_coredns-1_{FOREIGN}" / "0.log"
    node.classifier.log_folders.write_text("a file")
    node.classifier.classify_unknown()
    assert node.state() is EndpointState.PENDING


def test_on_a_first_start_what_nobody_knows_passes_and_is_recorded(tmp_path: Path) -> None:
    """L5."""
    node = Stranger(tmp_path)
    node.classifier.classify_unknown()
    node.classifier.let_pass_what_was_there()
    assert node.state() is EndpointState.UNMANAGED
    assert node.classifier.classified[FOREIGN].by is ClassifiedBy.FIRST_BOOT


def test_touched_has_a_pod_when_its_answer_changes_and_no_sooner(tmp_path: Path) -> None:
    node = Stranger(tmp_path)
    node.classifier.classify_unknown()
    assert FOREIGN in node.classifier.take_touched()
    node.classifier.classify_unknown()
    assert node.classifier.take_touched() == set()
    node.list_namespace()
    node.classifier.classify_unknown()
    assert node.classifier.take_touched() == {FOREIGN}


@pytest.mark.parametrize("uid", [FOREIGN, PodUid("never-seen")])
def test_a_pod_whose_last_folder_went_is_forgotten(tmp_path: Path, uid: PodUid) -> None:
    node = Stranger(tmp_path)
    node.classifier.classify_unknown()
    node.classifier.forget([uid])
    assert uid not in node.classifier.classified
