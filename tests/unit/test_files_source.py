"""The source `files`: what is in force, what is wrong, and how edits get there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.parse.object_kinds import Item
from agent.sources import files as files_source
from agent.sources.files import FilesSource
from agent.sources.manifest_set import ManifestSet, Unreadable
from agent.sources.store import TABLES, Store
from agent.sources.update import Update

UIDS = [f"cc7a1de5-1bf8-4567-ae3a-69799500000{i}" for i in range(10)]


def pod(name: str = "p", uid: str = UIDS[0], dag: str = "d", namespace: str = "etl") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {uid}
  labels: {{kubernetes_executor: "True", dag_id: {dag}, task_id: t}}
  annotations: {{dag_id: {dag}, task_id: t}}
spec: {{containers: []}}
"""


def policy(cidr: str = "10.0.0.0/8", name: str = "allow") -> str:
    return f"""\
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: {name}, namespace: etl}}
spec:
  subject: {{}}
  egress:
  - to: [{{cidr: {cidr}}}]
"""


MANAGED = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: etl, labels: {dagwall.io/managed: "true"}}\n'


class Folder:
    """A directory of manifests with a source on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store()
        self.source = FilesSource(path, self.store, ManifestSet(managed_namespaces=frozenset({"always"})))

    def write(self, file: str, text: str) -> None:
        (self.path / file).write_text(text)

    def next(self) -> Update:
        update = self.source.read(2.0)
        assert update is not None
        return update

    def quiet(self) -> bool:
        return self.source.read(0.1) is None

    def cidrs(self) -> set[str]:
        rules = [rule for each in self.store.snapshot.policies.values() for rule in each.egress or ()]
        return {str(peer.network) for rule in rules for peer in rule.peers or () if hasattr(peer, "network")}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "manifests")
    made.path.mkdir()
    yield made
    made.source.close()


def texts(update: Update) -> list[str]:
    return [str(problem) for problem in update.problems]


class Clumsy(ManifestSet):
    """With a parser that has a defect."""

    def _parse(self, body: object) -> Item:
        if isinstance(body, dict) and body["metadata"]["name"] == "odd":
            raise AttributeError("no such field")
        return super()._parse(body)


def test_an_object_that_trips_the_parser_up_is_invalid_and_costs_no_other() -> None:
    """P17: it says that the defect is dagwall's."""
    manifests = Clumsy()
    manifests.put("a.yaml", f"{policy(name='odd')}---\n{policy(name='good')}".encode())
    items, problems = manifests.current()
    assert [key.id.name for key in items if key.table == "policies"] == ["good"]
    assert [("odd" in str(each), "a defect of dagwall" in str(each)) for each in problems] == [(True, True)]
    assert manifests.broken.count == 1


def test_start_reads_everything_and_is_complete(folder: Folder) -> None:
    (folder.path / "sub" / "deeper").mkdir(parents=True)
    folder.write("a.yaml", MANAGED + "---\n" + policy())
    folder.write("sub/deeper/pod.yml", pod())
    folder.write("sub/POD.YAML", pod("q", UIDS[1]))
    folder.write("sub/.hidden.yaml", "broken: [")
    folder.write("README.md", "no manifest")
    update = folder.source.start()
    snapshot = update.snapshot
    assert snapshot.complete
    assert update.problems == ()
    assert set(snapshot.pods) == {UIDS[0], UIDS[1]}
    assert len(snapshot.policies) == 1
    assert {name: each.managed for name, each in snapshot.namespaces.items()} == {"etl": True, "always": True}
    assert folder.quiet()


def test_namespaces_that_nobody_wrote_down_exist(folder: Folder) -> None:
    folder.write("a.yaml", pod(namespace="other"))
    namespaces = folder.source.start().snapshot.namespaces
    assert not namespaces["other"].managed
    assert dict(namespaces["other"].labels) == {"kubernetes.io/metadata.name": "other"}


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidObject, match="is no directory"):
        FilesSource(tmp_path / "none", Store()).start()


def test_an_edit_arrives(folder: Folder) -> None:
    folder.write("a.yaml", policy())
    first = folder.source.start()
    folder.write("a.yaml", policy("10.1.0.0/16"))
    update = folder.next()
    assert update.snapshot.revision == first.snapshot.revision + 1
    assert update.changes.everything_else
    assert folder.cidrs() == {"10.1.0.0/16"}


def test_an_editor_that_renames(folder: Folder) -> None:
    folder.write("a.yaml", policy())
    folder.source.start()
    folder.write("a.yaml.swp", policy("10.2.0.0/16"))
    (folder.path / "a.yaml").rename(folder.path / "a.yaml~")
    (folder.path / "a.yaml.swp").rename(folder.path / "a.yaml")
    assert folder.next().snapshot.revision == 2
    assert folder.cidrs() == {"10.2.0.0/16"}


@pytest.mark.parametrize("renames", [1, 3, 40])
def test_a_file_that_is_renamed_while_the_directory_is_walked_is_never_gone(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Between the listing of names and the look at each: under neither name, and its policy must not go (P17)."""
    folder.write("a.yaml", policy())
    folder.write("m.yaml", pod())
    folder.source.start()
    names, left, stat = ["a.yaml", "b.yaml"], [renames], os.stat

    def renaming(path: str | Path, **how: bool) -> os.stat_result:
        if left[0] and str(path).endswith(names[0]):
            os.rename(folder.path / names[0], folder.path / names[1])
            names.reverse()
            left[0] -= 1
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", renaming)
    while left[0]:
        folder.source.rescan()
        assert folder.store.snapshot.policies
    monkeypatch.undo()
    folder.source.rescan()
    assert folder.store.snapshot.policies
    (folder.path / names[0]).unlink()
    folder.source.rescan()
    assert not folder.store.snapshot.policies


def test_a_configmap_volume_that_swaps_its_link(folder: Folder) -> None:
    for generation, cidr in (("1", "10.1.0.0/16"), ("2", "10.2.0.0/16")):
        (folder.path / f"..{generation}").mkdir()
        folder.write(f"..{generation}/a.yaml", policy(cidr))
    (folder.path / "..data").symlink_to("..1")
    (folder.path / "a.yaml").symlink_to("..data/a.yaml")
    assert len(folder.source.start().snapshot.policies) == 1
    (folder.path / "..data_tmp").symlink_to("..2")
    (folder.path / "..data_tmp").rename(folder.path / "..data")
    assert folder.next().problems == ()
    assert folder.cidrs() == {"10.2.0.0/16"}


def test_a_removed_file_removes_its_objects(folder: Folder) -> None:
    folder.write("a.yaml", pod())
    folder.write("b.yaml", pod("q", UIDS[1]))
    folder.source.start()
    (folder.path / "a.yaml").unlink()
    update = folder.next()
    assert update.changes.pods == {UIDS[0]}
    assert list(update.snapshot.pods) == [UIDS[1]]


EACH_KIND = {
    "Pod": pod(),
    "Namespace": "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n",
    "Node": "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n",
    "ServiceAccount": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: n}\n",
    "Service": "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: n}\nspec: {clusterIP: None}\n",
    "EndpointSlice": "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, namespace: n}\n"
    "addressType: IPv4\nendpoints: []\n",
    "TaskNetworkPolicy": policy(),
    "NetworkPolicy": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: n}\n"
    "spec: {podSelector: {}}\n",
    "TaskIdentityBinding": "apiVersion: dagwall.io/v1alpha1\nkind: TaskIdentityBinding\nmetadata: {name: a}\n"
    "spec: {namespace: n, serviceAccounts: [a], dagIds: [d]}\n",
}


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_kind_goes_with_its_file(folder: Folder, kind: str) -> None:
    before = folder.source.start().snapshot
    folder.write("a.yaml", EACH_KIND[kind])
    there = folder.next()
    assert there.problems == ()
    assert any(getattr(there.snapshot, table) != getattr(before, table) for table in TABLES)
    (folder.path / "a.yaml").unlink()
    after = folder.next().snapshot
    assert all(getattr(after, table) == getattr(before, table) for table in TABLES)


def test_every_table_has_a_kind_above() -> None:
    assert len(TABLES) == len(EACH_KIND)


def test_new_folders_are_watched_and_removed_ones_forgotten(folder: Folder) -> None:
    folder.source.start()
    (folder.path / "new" / "deep").mkdir(parents=True)
    folder.write("new/deep/a.yaml", pod())
    assert list(folder.next().snapshot.pods) == [UIDS[0]]
    folder.write("new/deep/a.yaml", pod(uid=UIDS[1]))
    assert list(folder.next().snapshot.pods) == [UIDS[1]]
    (folder.path / "new").rename(folder.path.parent / "away")
    assert not folder.next().snapshot.pods


def test_an_invalid_object_keeps_its_last_valid_generation(folder: Folder) -> None:
    folder.write("a.yaml", policy() + "---\n" + pod())
    folder.source.start()
    folder.write("a.yaml", policy("nonsense") + "---\n" + pod(uid=UIDS[1]))
    update = folder.next()
    assert folder.cidrs() == {"10.0.0.0/8"}
    assert list(update.snapshot.pods) == [UIDS[1]]
    (text,) = texts(update)
    assert text.startswith("a.yaml:1: TaskNetworkPolicy/etl/allow: spec.egress[0].to[0].cidr: ")
    folder.write("a.yaml", policy("10.3.0.0/16"))
    assert folder.next().problems == ()
    assert folder.cidrs() == {"10.3.0.0/16"}


def test_broken_yaml_keeps_all_objects_of_the_file(folder: Folder) -> None:
    folder.write("a.yaml", policy() + "---\n" + pod())
    revision = folder.source.start().snapshot.revision
    folder.write("a.yaml", policy("10.3.0.0/16") + "---\n" + "a: [1\n")
    update = folder.next()
    assert update.snapshot.revision == revision
    assert [text.split(":")[:2] for text in texts(update)] == [["a.yaml", "10"]]
    assert folder.cidrs() == {"10.0.0.0/8"}


def test_an_object_without_a_name_may_be_any_of_the_old_ones(folder: Folder) -> None:
    folder.write("a.yaml", policy() + "---\n" + policy("10.2.0.0/16", "two"))
    folder.source.start()
    folder.write("a.yaml", policy() + "---\n" + policy("10.2.0.0/16", '""'))
    assert len(folder.next().problems) == 1
    assert folder.cidrs() == {"10.0.0.0/8", "10.2.0.0/16"}


def test_an_object_that_moves_to_another_file_and_breaks_stays(folder: Folder) -> None:
    folder.write("a.yaml", policy())
    folder.source.start()
    folder.write("b.yaml", policy("nonsense"))
    (folder.path / "a.yaml").unlink()
    assert len(folder.next().problems) == 1
    assert folder.cidrs() == {"10.0.0.0/8"}
    (folder.path / "b.yaml").unlink()
    assert folder.next().problems == ()
    assert folder.cidrs() == set()


def test_an_object_that_was_never_valid_has_no_effect(folder: Folder) -> None:
    folder.write("a.yaml", policy("nonsense"))
    update = folder.source.start()
    assert len(update.problems) == 1
    assert not update.snapshot.policies


def test_one_name_in_two_files(folder: Folder) -> None:
    folder.write("a.yaml", policy("10.1.0.0/16"))
    folder.write("b.yaml", pod() + "---\n" + policy("10.2.0.0/16"))
    update = folder.source.start()
    assert texts(update) == [
        "b.yaml:11: TaskNetworkPolicy/etl/allow: is in a.yaml, line 1, too; that one is in force, this is not"
    ]
    assert folder.cidrs() == {"10.1.0.0/16"}
    (folder.path / "a.yaml").unlink()
    assert folder.next().problems == ()
    assert folder.cidrs() == {"10.2.0.0/16"}


def test_one_name_twice_in_a_file_and_one_uid_twice(folder: Folder) -> None:
    folder.write("a.yaml", "---\n".join([policy("10.1.0.0/16"), policy("10.2.0.0/16"), pod(), pod("q")]))
    update = folder.source.start()
    assert [problem.document for problem in update.problems] == [2, 4]
    assert f"{UIDS[0]} is the uid of Pod/etl/p" in texts(update)[1]
    assert folder.cidrs() == {"10.1.0.0/16"}


def test_claims_are_frozen_at_first_sight(folder: Folder) -> None:
    folder.write("a.yaml", pod(dag="first"))
    folder.source.start()
    folder.write("a.yaml", pod(dag="second"))
    update = folder.next()
    claim = update.snapshot.pods[UIDS[0]].claim  # type: ignore[index]
    assert claim.identity.dag_id == "first"
    assert claim.contradictions == ("dag_id would have changed from 'first' to 'second' after first sight",)


def test_a_pod_without_uid_is_a_problem(folder: Folder) -> None:
    folder.write("a.yaml", pod().replace(f"  uid: {UIDS[0]}\n", ""))
    assert "Pod/etl/p: metadata.uid: is missing" in texts(folder.source.start())[0]


def test_a_directory_that_goes_away_changes_nothing(folder: Folder) -> None:
    folder.write("a.yaml", pod())
    folder.source.start()
    folder.path.rename(folder.path.parent / "away")
    update = folder.source.rescan()
    assert update is not None
    assert "cannot list" in texts(update)[0]
    assert list(update.snapshot.pods) == [UIDS[0]]
    assert folder.source.rescan() is None
    (folder.path.parent / "away").rename(folder.path)
    back = folder.source.rescan()
    assert back is not None
    assert back.problems == ()
    folder.source.read(0.1)
    folder.write("a.yaml", pod(uid=UIDS[1]))
    assert list(folder.next().snapshot.pods) == [UIDS[1]]


def test_what_is_no_file_is_named_and_harms_no_other(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.yaml")
    os.mkfifo(folder.path / "pipe")
    (folder.path / "loop").symlink_to(".")
    (folder.path / "nothing").symlink_to("nowhere")
    (folder.path / "dangling.yaml").symlink_to("nowhere")
    folder.write("a.yaml", pod())
    update = folder.source.start()
    assert texts(update) == [
        "dangling.yaml: cannot read: the link leads nowhere", "pipe.yaml: cannot read: it is no regular file",
    ]  # fmt: skip
    assert len(update.snapshot.pods) == 1


def _dangle(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.symlink_to("a.yaml")


@pytest.mark.parametrize("become", [_dangle, _loop, os.mkfifo])
def test_a_name_that_leads_nowhere_keeps_what_it_held_until_it_is_removed(
    folder: Folder, become: Callable[[Path], None]
) -> None:
    """Doubt never opens: as when a volume is away, or somebody has renamed the target."""
    folder.write("a.yaml", policy())
    folder.source.start()
    become(folder.path / ".new")
    (folder.path / ".new").rename(folder.path / "a.yaml")
    update = folder.next()
    assert folder.cidrs() == {"10.0.0.0/8"}
    assert ["a.yaml: cannot read" in text for text in texts(update)] == [True]
    (folder.path / "a.yaml").unlink()
    folder.next()
    assert folder.cidrs() == set()


def test_a_link_whose_target_goes_keeps_what_it_held(folder: Folder, tmp_path: Path) -> None:
    target, inner = tmp_path / "target.yaml", tmp_path / "inner"
    target.write_text(policy())
    inner.mkdir()
    (inner / "b.yaml").write_text(policy("192.0.2.0/24", "q"))
    (folder.path / "a.yaml").symlink_to(target)
    (folder.path / "more").symlink_to(inner)
    folder.source.start()
    both = {"10.0.0.0/8", "192.0.2.0/24"}
    assert folder.cidrs() == both
    target.unlink()
    (inner / "b.yaml").rename(tmp_path / "elsewhere.yaml")
    inner.rmdir()
    folder.source.rescan()
    assert folder.cidrs() == both
    assert len(folder.source.problems) == 2
    for name in ("a.yaml", "more"):
        (folder.path / name).unlink()
    folder.source.rescan()
    assert folder.cidrs() == set()


def test_a_file_whose_folder_refuses_to_be_looked_at_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESTALE, EIO, EACCES of stat(): the name is there."""
    folder.write("a.yaml", policy())
    folder.source.start()
    before = os.stat

    def refusing(path: Path, **options: Any) -> os.stat_result:
        if str(path).endswith("a.yaml"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return before(path, **options)

    monkeypatch.setattr(files_source.os, "stat", refusing)
    folder.source.rescan()
    assert folder.cidrs() == {"10.0.0.0/8"}


def test_an_unreadable_file_keeps_what_it_said() -> None:
    manifests = ManifestSet()
    manifests.put("a.yaml", pod().encode())
    before, _ = manifests.current()
    manifests.put("a.yaml", Unreadable("cannot read: Input/output error"))
    now, problems = manifests.current()
    assert now == before
    assert [str(problem) for problem in problems] == ["a.yaml: cannot read: Input/output error"]


def test_writes_that_change_nothing_make_no_revision(folder: Folder) -> None:
    folder.write("a.yaml", pod())
    folder.source.start()
    folder.write("a.yaml", "# comment\n" + pod())
    assert folder.quiet()
    folder.write("note.txt", "x")
    assert folder.quiet()


@pytest.mark.parametrize("left", ["", "\n", "# nothing yet\n", "---\n---\n"])
def test_an_emptied_file_keeps_what_it_said_until_it_is_removed(folder: Folder, left: str) -> None:
    """As by `: > policies.yaml`, an editor that truncates first, a full disk."""
    folder.write("a.yaml", MANAGED + "---\n" + policy())
    folder.source.start()
    folder.write("a.yaml", left)
    update = folder.next()
    assert folder.cidrs() == {"10.0.0.0/8"}
    assert update.snapshot.namespaces["etl"].managed
    assert "a.yaml: holds no object any more" in texts(update)[0]
    folder.write("a.yaml", policy("192.0.2.0/24"))
    assert folder.next().problems == ()
    assert folder.cidrs() == {"192.0.2.0/24"}
    (folder.path / "a.yaml").unlink()
    folder.next()
    assert folder.cidrs() == set()


def test_a_file_that_never_held_an_object_is_no_error(folder: Folder) -> None:
    folder.write("a.yaml", "")
    assert folder.source.start().problems == ()


def test_a_namespace_that_goes_while_pods_of_it_are_there_stays_managed(folder: Folder) -> None:
    folder.write("namespace.yaml", MANAGED)
    folder.write("pod.yaml", pod())
    folder.source.start()
    (folder.path / "namespace.yaml").unlink()
    update = folder.next()
    assert update.snapshot.namespaces["etl"].managed
    assert "Namespace/etl: is in no file any more, and pods of it are" in texts(update)[0]
    folder.write("namespace.yaml", MANAGED.replace("true", "false"))
    update = folder.next()
    assert (update.snapshot.namespaces["etl"].managed, update.problems) == (False, ())
    (folder.path / "namespace.yaml").write_text(MANAGED)
    folder.next()
    (folder.path / "pod.yaml").unlink()
    (folder.path / "namespace.yaml").unlink()
    update = folder.next()
    assert "etl" not in update.snapshot.namespaces
    assert update.problems == ()


FOREIGN = [("v1", "Endpoints"), ("v1", "ConfigMap"), ("apps/v1", "Deployment"), ("serving.knative.dev/v1", "Service")]
NOT_FOREIGN = [
    ("v1", "Namespac"), ("v1", "Services"), ("dagwall.io/v1alpha1", "TaskNetwork"), ("dagwall.io/v1", "Secret"),
    ("extensions/v1beta1", "NetworkPolicy"), ("networking.k8s.io/v1beta1", "NetworkPolicy"), ("v2", "Pod"),
]  # fmt: skip


def an_object(version: str, kind: str) -> str:
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: etl}}\n---\n{policy()}"


@pytest.mark.parametrize(("version", "kind"), FOREIGN)
def test_a_foreign_kind_is_skipped_and_said(folder: Folder, version: str, kind: str) -> None:
    folder.write("a.yaml", an_object(version, kind))
    assert folder.source.start().problems == ()
    assert folder.cidrs() == {"10.0.0.0/8"}
    (said,) = folder.source.manifests.skipped()
    assert said == f"a.yaml:1: {kind}/etl/x: skipped, dagwall reads no {kind}"


@pytest.mark.parametrize(("version", "kind"), NOT_FOREIGN)
def test_what_looks_like_one_of_ours_is_an_error(folder: Folder, version: str, kind: str) -> None:
    folder.write("a.yaml", an_object(version, kind))
    (said,) = texts(folder.source.start())
    assert "is no kind that dagwall reads" in said
    assert folder.source.manifests.skipped() == ()
