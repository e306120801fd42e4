"""Paths as real kubelets make them (docs/cgroups.md), and what must not be mistaken for a pod."""

from __future__ import annotations

import pytest

from agent.errors import InvalidObject
from agent.sources.cgroup_names import Place, Role, parse_roots, place

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"
UNDERSCORES = UID.replace("-", "_")
HASH = "0123456789abcdef0123456789abcdef"
CID = "ab" * 32
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORES}.slice"


@pytest.mark.parametrize(
    ("path", "uid", "level", "root"),
    [
        (
            "/a.slice/a-b.slice/a-b-kubepods.slice/a-b-kubepods-podUID.slice".replace("UID", UNDERSCORES),
            UID,
            4,
            "/a.slice/a-b.slice/a-b-kubepods.slice",
        ),
        (f"/kubepods.slice/kubepods-pod{UNDERSCORES}.slice", UID, 2, "/kubepods.slice"),
        (BURSTABLE, UID, 3, "/kubepods.slice"),
        (BURSTABLE.replace("burstable", "besteffort"), UID, 3, "/kubepods.slice"),
        (f"/kubepods/pod{UID}", UID, 2, "/kubepods"),
        (f"/kubepods/burstable/pod{UID}", UID, 3, "/kubepods"),
        (f"/kubepods/besteffort/pod{HASH}", HASH, 3, "/kubepods"),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice", HASH, 3, "/kubepods.slice"),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
            f"kubelet-kubepods-burstable-pod{UNDERSCORES}.slice",
            UID,
            4,
            "/kubelet.slice/kubelet-kubepods.slice",
        ),
        (f"/kubelet/kubepods/besteffort/pod{UID}", UID, 4, "/kubelet/kubepods"),
    ],
)
def test_pods(path: str, uid: str, level: int, root: str | None) -> None:
    found = place(path)
    assert (found.role, found.uid, found.level) == (Role.POD, uid, level)
    assert found.root == (root if root is not None else path.rsplit("/", 1)[0])
    for name in (f"cri-containerd-{CID}.scope", f"crio-{CID}.scope", f"docker-{CID}.scope", CID):
        container = place(f"{path}/{name}")
        assert (container.role, container.uid, container.container_id) == (Role.CONTAINER, uid, CID)
        assert (container.level, container.root) == (level + 1, found.root)


@pytest.mark.parametrize("driver", ["cri-containerd", "crio", "docker"])
def test_containers_outside_of_the_pods_root(driver: str) -> None:
    found = place(f"/system.slice/kubepods-besteffort-pod{UNDERSCORES}.slice:{driver}:{CID}")
    assert (found.role, found.uid, found.container_id) == (Role.CONTAINER, UID, CID)
    assert (found.level, found.root) == (2, "")


@pytest.mark.parametrize(
    "name",
    [f"crio-conmon-{CID}.scope", "init", f"pod{UID}", f"kubepods-pod{UNDERSCORES}.slice", CID[:-1], f"x-{CID}.scope"],
)
def test_what_is_no_container(name: str) -> None:
    assert place(f"{BURSTABLE}/{name}").role is Role.BELOW


def test_a_container_cannot_pose_as_another_pod() -> None:
    other = "00000000-0000-0000-0000-000000000000"
    for fake in (
        f"kubepods/pod{other}",
        f"pod{other}",
        f"kubepods.slice/kubepods-pod{other.replace('-', '_')}.slice",
    ):
        found = place(f"{BURSTABLE}/cri-containerd-{CID}.scope/{fake}")
        assert (found.role, found.uid, found.container_id) == (Role.BELOW, UID, CID)


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/", Role.OTHER),
        ("/system.slice", Role.OTHER),
        (f"/system.slice/pod{UID}", Role.OTHER),
        ("/kubepods", Role.ROOT),
        ("/kubepods.slice", Role.ROOT),
        ("/kubelet.slice/kubelet-kubepods.slice", Role.ROOT),
        ("/kubepods-burstable.slice", Role.OTHER),
        ("/kubepods/burstable", Role.INNER),
        ("/kubepods/kubepods", Role.INNER),
        ("/kubepods/podX", Role.INNER),
        (f"/kubepods/pod{UID}0", Role.INNER),
        (f"/kubepods/pod{UID.upper()}", Role.INNER),
    ],
)
def test_roles(path: str, role: Role) -> None:
    assert place(path).role is role


def test_given_roots_replace_found_ones() -> None:
    roots = frozenset({"/system.slice"})
    stray = place(f"/system.slice/kubepods-besteffort-pod{UNDERSCORES}.slice:cri-containerd:{CID}", roots)
    assert stray.root == "/system.slice"
    pod = place(BURSTABLE, roots)
    assert (pod.role, pod.uid, pod.root) == (Role.POD, UID, "")
    assert place(f"/system.slice/pod{UID}", roots).role is Role.POD


DELEGATED = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize("tree", [DELEGATED, "/system.slice/x.service", "/machine.slice", "/docker/abc", "/x"])
@pytest.mark.parametrize(
    "below",
    ["kubepods", "kubepods.slice", "x-kubepods.slice", "kubelet/kubepods", "user-kubepods.slice", "a/b/kubepods"],
)
def test_a_name_alone_makes_no_root(tree: str, below: str) -> None:
    """Whoever has a delegated tree could shift the levels at which the programs look for pods, for everybody."""
    for inside in ("", f"/pod{UID}", f"/burstable/pod{UID}/{CID}", f"/kubepods-pod{UNDERSCORES}.slice/{CID}"):
        found = place(f"{tree}/{below}{inside}")
        assert (found.role, found.root, found.uid) == (Role.OTHER, "", "")


@pytest.mark.parametrize("name", [f"kubepods-pod{UNDERSCORES}.slice", f"kubepods-pod{UNDERSCORES}.slice:crio:{CID}"])
def test_a_delegated_tree_holds_no_container_outside_of_the_roots(name: str) -> None:
    """Such a name would make the node not ready."""
    assert place(f"{DELEGATED}/{name}").role is Role.OTHER


def test_a_given_root_is_one_wherever_it_is() -> None:
    root = f"/system.slice/docker-{CID}.scope/kubelet/kubepods"
    found = place(f"{root}/pod{UID}", frozenset({root}))
    assert (found.role, found.uid, found.level, found.root) == (Role.POD, UID, 5, root)


def test_roots_as_people_write_them() -> None:
    assert parse_roots(["kubepods/", "/a//b"]) == {"/kubepods", "/a/b"}
    for text in ("", "/", "/a/../b"):
        with pytest.raises(InvalidObject, match="below the cgroup mount"):
            parse_roots([text])


def test_the_top_itself() -> None:
    assert place("/") == Place()
