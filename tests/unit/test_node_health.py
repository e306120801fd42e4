"""Is what should be enforced enforced? Looked at, mended, and named while it is not, on a kernel of dictionaries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.abi.structs import pack_folder
from agent.errors import CapacityError, KernelError, MapError, StateError
from agent.model.identity import PodUid
from agent.model.node_state import Topic
from agent.node.folders import Folders
from agent.node.health import WHOLE_SECONDS, WHOLE_SHARE, Health
from agent.sources.cgroups import ContainerFolder, RootFolder
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Outcome, Writer
from tests.unit.fake_kernel import Clock, FakeKernel
from tests.unit.test_sync_writer import A, cluster, pod


class Watched:
    """A node with one pod on one root."""

    def __init__(self, mount: Path) -> None:
        self.kernel, self.clock, self.folders = FakeKernel(), Clock(), Folders()
        self.writer = Writer(self.kernel.maps, IdentityNumbers(), Intake(lambda *_: None))
        self.writer.start(cluster(pod(A)), [(A, 10)])
        self.writer.take_questioned()
        self.folders.add(self.root(mount, "kubepods"))
        self.health = Health(self.kernel, self.writer, self.folders, mount, self.clock)
        self.health.attach()

    @staticmethod
    def root(mount: Path, name: str) -> RootFolder:
        (mount / name).mkdir()
        return RootFolder(f"/{name}", (mount / name).stat().st_ino, 1)

    def check(self) -> dict[Topic, str]:
        self.health.check()
        return dict(self.health.problems)


@pytest.fixture
def node(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def raising(exc: Exception) -> Callable[[], Outcome]:
    def step() -> Outcome:
        raise exc

    return step


def test_a_node_in_order_has_no_problem(node: Watched) -> None:
    for _ in range(3):
        assert node.check() == {}
    assert (node.kernel.attachments, node.health.repaired) == (1, 0)


# -- guarded


@pytest.mark.parametrize("exc", [MapError("map rules: full"), KernelError("attach: no"), CapacityError("too many")])
def test_what_the_kernel_refuses_makes_the_node_not_ready(node: Watched, exc: Exception) -> None:
    assert node.health.guarded(raising(exc)) == Outcome()
    assert node.health.problems == {Topic.KERNEL: str(exc)}


def test_a_defect_is_not_taken_for_a_refusal(node: Watched) -> None:
    with pytest.raises(ZeroDivisionError):
        node.health.guarded(raising(ZeroDivisionError()))


def test_a_step_that_works_gives_its_outcome(node: Watched) -> None:
    assert node.health.guarded(lambda: Outcome(writes=3)).writes == 3
    assert node.health.guarded(lambda: None) == Outcome()


def test_the_next_look_mends_a_refusal_and_writes_everything_again(node: Watched) -> None:
    node.health.guarded(raising(MapError("map rules: full")))
    node.kernel.maps["rules"].content.clear()
    assert node.check() == {}
    assert node.kernel.maps["rules"].content


def test_a_refusal_that_lasts_stays_a_problem_with_its_newest_reason(node: Watched) -> None:
    node.health.guarded(raising(MapError("map rules: full")))
    node.kernel.refuses = True
    assert node.check() == {Topic.KERNEL: "attach: no"}
    node.kernel.refuses = False
    node.kernel.maps["endpoints"].refuses = True
    node.kernel.maps["endpoints"].content.clear()
    assert node.check() == {Topic.KERNEL: "map endpoints: update: no room"}
    node.kernel.maps["endpoints"].refuses = False
    assert node.check() == {}


def test_while_the_kernel_refuses_maps_are_not_compared(node: Watched) -> None:
    """What differs then is known, and no other program's doing."""
    node.health.guarded(raising(MapError("full")))
    node.kernel.refuses = True
    node.kernel.maps["endpoints"].content.clear()
    assert Topic.MAPS not in node.check()
    assert node.health.repaired == 0


# -- the state folder


def test_a_disk_that_takes_nothing_is_a_problem_until_it_does(node: Watched) -> None:
    node.health.saved(raising(StateError("disk full")))  # type: ignore[arg-type]
    assert node.health.problems == {Topic.STATE: "disk full"}
    node.health.saved(lambda: None)
    assert node.health.problems == {}


# -- hooks, roots, pins


def test_a_hook_that_was_replaced_is_put_back_and_all_is_judged_again(
    node: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    (root,) = node.kernel.roots
    node.kernel.replace(root, "connect4")
    assert node.check() == {Topic.HOOKS: "not attached to /kubepods"}
    assert node.kernel.roots[root] == {"egress", "connect4"}
    assert node.writer.take_questioned() == (10,)
    assert "hook.replaced" in [record.getMessage() for record in caplog.records]
    assert node.check() == {}


def test_a_root_without_our_hooks_gets_them(node: Watched, tmp_path: Path) -> None:
    node.folders.add(node.root(tmp_path, "other"))
    assert node.check() == {Topic.HOOKS: "not attached to /other"}
    assert node.check() == {}
    assert len(node.kernel.roots) == 2


def test_without_a_root_nothing_is_enforced(node: Watched) -> None:
    node.folders.roots.clear()
    assert node.check() == {Topic.ROOTS: "no pods' root in the cgroup tree: nothing is enforced"}


def test_pins_that_went_are_made_again(node: Watched) -> None:
    node.kernel.pinned = False
    assert node.check() == {}
    assert node.kernel.pinned


def test_containers_outside_the_roots_are_named_up_to_five(node: Watched) -> None:
    for n in range(7):
        node.folders.add(ContainerFolder(PodUid(f"u{n}"), "c", f"/x/{n}", 100 + n, 2, ""))
    (problem,) = node.check().values()
    assert problem.endswith("pods u0, u1, u2, u3, u4 and 2 more")


# -- maps that another program has changed


def test_an_entry_that_another_program_changed_is_written_again(node: Watched) -> None:
    node.check()
    endpoints = node.kernel.maps["endpoints"]
    written = dict(endpoints.content)
    endpoints.content.clear()
    assert node.check() == {Topic.MAPS: "entries that another program has changed, written again: 1 of endpoints"}
    assert endpoints.content == written
    assert node.health.repaired == 1
    node.clock.now += WHOLE_SECONDS
    assert node.check() == {}


def test_all_maps_are_compared_every_ten_seconds_endpoints_each_time(node: Watched) -> None:
    node.check()
    del node.kernel.maps["rules"].content[next(iter(node.kernel.maps["rules"].content))]
    node.clock.now += WHOLE_SECONDS - 0.1
    assert node.check() == {}
    node.clock.now += 0.2
    assert list(node.check()) == [Topic.MAPS]
    node.kernel.maps["endpoints"].content[pack_folder(99)] = node.kernel.maps["endpoints"].content[pack_folder(10)]
    assert "1 of endpoints" in node.check()[Topic.MAPS]


def test_a_comparison_that_takes_long_is_made_rarely(node: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """One per cent of the thread's time."""

    def slow(*, whole: bool) -> dict[str, int]:
        node.clock.now += 1.0 * whole
        return {}

    monkeypatch.setattr(node.writer, "differing", slow)
    began = node.clock.now
    node.check()
    assert node.health.whole_due == began + 1.0 + WHOLE_SHARE


# -- notes


def test_a_problem_is_logged_when_it_comes_up_and_when_it_changes(
    node: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dagwall")
    for text in ("a", "a", "b", "", "", "b"):
        node.health.note(Topic.SOURCE, text)
    assert [record.__dict__["fields"]["why"] for record in caplog.records] == ["a", "b", "b"]
