"""The writing thread, turn by turn: updates, folders, the kernel's questions; maps, reports, saved state."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.abi.structs import CONFIG, EPOCH, EVENT, SLOT, U32, U64, pack_address
from agent.flows.decode import RawEvent
from agent.model.identity import PodUid
from agent.model.node_state import Topic
from agent.model.verdict import Direction, DropReason, EndpointState, EventKind, Hook, Verdict
from agent.node.flow_drain import Snapshot
from agent.node.node import BLIND_SCAN_SECONDS, HEALTH_SECONDS, HEARTBEAT_SECONDS, SCAN_SECONDS
from agent.node.socket_closer import Stalled, Sweep
from agent.node.unknown import ASKED_NS
from tests.unit.fake_kernel import FakeKernel
from tests.unit.node_parts import FakeNode, container_folder, pod_folder, revision
from tests.unit.test_sync_writer import A, B, cluster, pod

ONE = revision(cluster(pod(A)), 1)
CONFIG_KEY = U32.pack(value=0)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeNode]:
    found = FakeNode(tmp_path)
    found.add_root()
    found.watcher.add(pod_folder(A, 10))
    yield found
    found.close()


@pytest.fixture
def started(fake: FakeNode) -> FakeNode:
    fake.start(ONE)
    fake.turn()
    fake.messages()
    fake.sweeps()
    return fake


def state_of(fake: FakeNode, uid: PodUid) -> EndpointState:
    return fake.newest.endpoints[uid].state


# -- start


def test_a_start_fills_the_maps_then_attaches_then_reports(fake: FakeNode) -> None:
    """L5: the order."""
    seen: list[bool] = []

    class Attaching(FakeKernel):
        def attach(self, roots: Iterable[Path]) -> None:
            seen.append(bool(self.maps["rules"].content))
            super().attach(roots)

    fake.kernel.__class__ = Attaching
    fake.start(ONE)
    assert seen == [True], "rules were there"
    assert state_of(fake, A) is EndpointState.MANAGED
    assert (fake.newest.status.ready, fake.newest.status.revision, fake.newest.cluster.revision) == (True, 1, 1)
    assert {(hook.hook, hook.attached) for hook in fake.newest.status.hooks} == {("connect4", True), ("egress", True)}
    assert fake.newest.status.enforcing_after_seconds == 2.5


@pytest.mark.parametrize(
    ("adopted", "known_here", "state"),
    [
        (False, False, EndpointState.UNMANAGED),
        (True, True, EndpointState.PENDING),
        (False, True, EndpointState.UNMANAGED),
    ],
)
def test_folders_that_nobody_explains_pass_on_a_first_start_only(
    tmp_path: Path, adopted: bool, known_here: bool, state: EndpointState
) -> None:
    """L5, L3."""
    fake = FakeNode(tmp_path, adopted=adopted, known_here=known_here)
    fake.add_root()
    fake.watcher.add(pod_folder(B, 20))
    fake.start(ONE)
    assert state_of(fake, B) is state
    fake.close()


def test_evictions_that_a_dead_agent_made_are_told_to_the_kernel(fake: FakeNode) -> None:
    fake.kernel.maps["slots"].put(U32.pack(value=1), SLOT.pack(inserted=(5, 0)))
    fake.start(ONE)
    assert EPOCH.unpack(fake.kernel.maps["epochs"].content[U32.pack(value=1)])["evicted"] == (5, 0)


# -- updates


def test_an_update_is_programmed_reported_and_saved(started: FakeNode) -> None:
    started.watcher.add(pod_folder(B, 20))
    started.node._on_folders()
    started.update(revision(cluster(pod(A), pod(B)), 2), B)
    assert state_of(started, B) is EndpointState.MANAGED
    assert started.newest.cluster.revision == 2
    assert B in started.folder.kept[-1].claims
    samples = [seconds for report in started.reports for seconds in report.policy_seconds]
    assert samples == [0.25], "once, in the report that follows"
    assert [type(each) for each in started.messages()][-1] is Snapshot


def test_several_updates_that_wait_are_one(started: FakeNode) -> None:
    for number in (2, 3):
        started.post(revision(cluster(pod(A), port=number), number), everything_else=True)
    started.messages()
    started.turn(started.inbox.fileno())
    assert started.newest.cluster.revision == 3
    assert len([each for each in started.messages() if isinstance(each, Snapshot)]) == 1


def test_a_revision_that_does_not_fit_is_a_problem_until_one_does(started: FakeNode) -> None:
    started.limit.closed = True
    started.update(revision(cluster(pod(A), port=80), 2), everything_else=True)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {Topic.REVISION: "revision refused: map rules: full"}
    assert (started.newest.status.revision, started.newest.cluster.revision) == (2, 1), "known, and not programmed"
    started.limit.closed = False
    started.update(revision(cluster(pod(A), port=80), 3), everything_else=True)
    assert started.newest.status.problems == {}
    assert started.newest.cluster.revision == 3


def test_a_map_that_refuses_is_a_problem_that_the_next_look_mends(started: FakeNode) -> None:
    started.kernel.maps["rules"].refuses = True
    started.update(revision(cluster(pod(A), port=80), 2), everything_else=True)
    assert Topic.KERNEL in started.newest.status.problems
    started.kernel.maps["rules"].refuses = False
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {}


def test_what_is_called_into_question_goes_to_the_closing_thread(started: FakeNode) -> None:
    """P10."""
    started.update(revision(cluster(pod(A), port=80), 2), everything_else=True)
    assert started.sweeps() == [Sweep((10,))]


def test_evictions_that_a_map_refuses_are_a_problem_that_the_next_look_mends(started: FakeNode) -> None:
    """The thread, and with it all that is enforced, goes on."""
    slot = started.newest.endpoints[A].slot
    started.kernel.maps["epochs"].refuses = True
    started.inbox.evicted(Counter({(slot, Direction.EGRESS): 3}))
    started.turn(started.inbox.fileno())
    started.kernel.maps["epochs"].refuses = False
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {}
    assert EPOCH.unpack(started.kernel.maps["epochs"].content[U32.pack(value=slot)])["evicted"] == (3, 0)


def test_evictions_are_told_to_the_kernel(started: FakeNode) -> None:
    slot = started.newest.endpoints[A].slot
    for _ in range(2):
        started.inbox.evicted(Counter({(slot, Direction.EGRESS): 3}))
    started.turn(started.inbox.fileno())
    assert EPOCH.unpack(started.kernel.maps["epochs"].content[U32.pack(value=slot)])["evicted"] == (6, 0)


# -- folders


def test_a_new_root_gets_the_hooks_at_once(started: FakeNode) -> None:
    root = started.add_root("other")
    started.node._on_folders()
    assert root.cgroup_id in started.kernel.roots


def test_a_folder_of_an_unknown_pod_is_pending_and_loud_after_ten_seconds(started: FakeNode) -> None:
    started.watcher.add(pod_folder(B, 20))
    started.node._on_folders()
    started.turn()
    assert state_of(started, B) is EndpointState.PENDING
    started.later(11)
    started.later(HEALTH_SECONDS)
    assert "pods that nobody can identify" in started.newest.status.problems[Topic.PENDING]
    started.update(revision(cluster(pod(A), pod(B)), 2), B)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {}
    waits = [seconds for report in started.reports for seconds in report.pending_seconds]
    assert len(waits) == 1
    assert waits[0] > 10


def test_a_tree_that_cannot_be_read_is_a_problem_until_it_can(started: FakeNode) -> None:
    started.watcher.broken = "cgroup tree: gone"
    started.later(SCAN_SECONDS)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {Topic.FOLDERS: "cgroup tree: gone"}
    started.watcher.broken = ""
    started.later(SCAN_SECONDS)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {}


def test_where_most_pods_are_is_written_into_config(started: FakeNode) -> None:
    levels = lambda: CONFIG.unpack(started.kernel.maps["config"].content[CONFIG_KEY])["pod_level"]  # noqa: E731
    assert levels() == (3, 2)
    for n in range(2):
        started.watcher.add(pod_folder(PodUid(f"u{n}"), 50 + n, level=5))
    started.node._on_folders()
    assert levels() == (5, 3)


@pytest.mark.parametrize(("trouble", "seconds"), [("", SCAN_SECONDS), ("no inotify watch", BLIND_SCAN_SECONDS)])
def test_the_tree_is_searched_more_often_where_events_are_lacking(
    started: FakeNode, trouble: str, seconds: float
) -> None:
    started.watcher.trouble = trouble
    started.later(SCAN_SECONDS)
    before = started.watcher.searches
    started.later(seconds - 0.1)
    assert started.watcher.searches == before
    started.later(0.2)
    assert started.watcher.searches == before + 1
    assert started.newest.status.without_events == ((f"pods' folders: {trouble}",) if trouble else ())


# -- the kernel's questions


def test_a_cgroup_that_the_kernel_asks_about_is_looked_for(started: FakeNode) -> None:
    started.watcher.hide(container_folder(A, 11))
    started.ask(11)
    assert started.node.folders.pods[11] == A
    assert not started.node.parts.unknown


def test_a_folder_whose_event_is_on_its_way_needs_no_search(started: FakeNode) -> None:
    started.watcher.add(container_folder(A, 11))
    before = started.watcher.searches
    started.ask(11)
    assert started.watcher.searches == before


def test_a_cgroup_below_a_pod_that_is_known_needs_no_search(started: FakeNode) -> None:
    before = started.watcher.searches
    started.ask(12, 10)
    assert started.watcher.searches == before


def test_a_cgroup_that_nobody_finds_is_logged_once(started: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    started.ask(99)
    found = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "cgroup.unknown"]
    assert [(each["cgroup_id"], each["path"]) for each in found] == [(99, "gone")]
    assert not started.node.parts.unknown


def test_old_questions_are_forgotten_and_new_ones_stay(started: FakeNode) -> None:
    pending, now = started.kernel.maps["pending"], int(started.clock.now * 1e9)
    for cgroup, age in ((1, ASKED_NS + 10**10), (2, 0)):
        pending.put(U64.pack(value=cgroup), U64.pack(value=now - age))
    started.later(HEALTH_SECONDS)
    assert pending.keys() == [U64.pack(value=2)]


def test_denials_go_to_the_draining_thread_and_stalled_sockets_to_the_closing_one(started: FakeNode) -> None:
    slot = started.newest.endpoints[A].slot
    common = {
        "kind": EventKind.DENIED, "cgroup_id": 10, "verdict": Verdict.DENY, "reason": DropReason.NO_RULE,
        "slot": slot, "peer": pack_address(pod(B).addresses[0]), "protocol": 6,
    }  # fmt: skip
    started.kernel.events.records += [
        EVENT.pack(hook=Hook.EGRESS, socket_cookie=77, **common), EVENT.pack(hook=Hook.CONNECT, **common),
    ]  # fmt: skip
    started.turn(started.kernel.events.fileno())
    assert [each.hook for each in started.messages() if isinstance(each, RawEvent)] == [Hook.EGRESS, Hook.CONNECT]
    assert [each.cookie for each in started.sweeps() if isinstance(each, Stalled)] == [77]


def test_a_record_that_cannot_be_read_is_counted_and_the_next_is_read(started: FakeNode) -> None:
    """What stands in it a task may have chosen: the thread goes on (S1)."""
    good = EVENT.pack(kind=EventKind.DENIED, hook=Hook.CONNECT, cgroup_id=10, peer=pack_address(pod(B).addresses[0]))
    started.kernel.events.records += [b"short", EVENT.pack(kind=200), good]
    started.turn(started.kernel.events.fileno())
    assert [each.hook for each in started.messages() if isinstance(each, RawEvent)] == [Hook.CONNECT]
    assert started.drain.lost()["records_not_understood"] == 2


# -- time


def test_the_heartbeat_goes_on_each_second(started: FakeNode) -> None:
    beats = lambda: CONFIG.unpack(started.kernel.maps["config"].content[CONFIG_KEY])["heartbeat_ns"]  # noqa: E731
    started.later(HEARTBEAT_SECONDS)
    assert beats() == int(started.clock.now * 1e9)
    at = beats()
    started.later(HEARTBEAT_SECONDS / 2)
    assert beats() == at
    started.later(HEARTBEAT_SECONDS / 2)
    assert beats() > at


def test_a_report_is_made_every_two_seconds_though_nothing_changes(started: FakeNode) -> None:
    started.later(HEALTH_SECONDS)
    before = len(started.reports)
    for _ in range(4):
        started.later(HEALTH_SECONDS / 4)
    assert len(started.reports) == before + 1


def test_a_source_in_trouble_is_a_problem(started: FakeNode) -> None:
    started.source.why, started.source.stale = "nothing new is known of Pod", 40.0
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {Topic.SOURCE: "nothing new is known of Pod"}
    assert started.newest.status.stale_seconds == 40.0


def test_a_disk_that_takes_nothing_is_a_problem_and_tried_again(started: FakeNode) -> None:
    started.folder.full = True
    started.update(revision(cluster(pod(A), pod(B)), 2), B)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {Topic.STATE: "disk full"}
    started.folder.full = False
    started.later(HEALTH_SECONDS)
    started.later(HEALTH_SECONDS)
    assert started.newest.status.problems == {}


def test_that_it_enforces_is_logged_once(fake: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dagwall")
    fake.start(ONE)
    for _ in range(3):
        fake.later(HEALTH_SECONDS)
    assert [record.getMessage() for record in caplog.records].count("agent.enforcing") == 1


def test_it_ends_when_it_is_to_stop_and_saves(started: FakeNode) -> None:
    saved = len(started.folder.kept)
    started.inbox.stop()
    started.node.run()
    assert len(started.folder.kept) == saved + 1


# -- reports are values


def test_a_report_stays_as_it_was(started: FakeNode) -> None:
    """Nothing in it is changed by what comes after."""
    first = started.newest
    rows, rules, numbers = dict(first.endpoints), dict(first.rules), dict(first.numbers)
    problems, fill = dict(first.status.problems), first.status.fill
    started.watcher.add(pod_folder(B, 20))
    started.node._on_folders()
    other = replace(pod(B, "other"), node="")
    started.update(revision(cluster(pod(A), other, port=80), 2), B, everything_else=True)
    started.kernel.maps["rules"].refuses = True
    started.update(revision(cluster(pod(A), port=81), 3), B, everything_else=True)
    assert (dict(first.endpoints), dict(first.rules), dict(first.numbers)) == (rows, rules, numbers)
    assert (dict(first.status.problems), first.status.fill) == (problems, fill)
    assert started.newest.status.problems
