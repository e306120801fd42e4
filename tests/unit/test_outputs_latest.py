"""The newest report and its totals: what metrics, the local API and the probes answer from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import MapError
from agent.model.node_state import STANDS_STILL_SECONDS, NodeState, View
from agent.model.report import HookState, Totals
from agent.outputs.latest import CACHE_SECONDS, SLOW_SECONDS, Latest
from tests.unit.seen import FACTS, STATE, TOTALS, unready


class Served:
    """A Latest with a clock, whose kernel counts how often it is read, or is gone."""

    def __init__(self) -> None:
        self.now, self.reads, self.gone = 0.0, 0, False
        self.latest = Latest(lambda: {"followers": 7}, lambda: self.now)

    def read(self, _: NodeState) -> Totals:
        if self.gone:
            raise MapError("closed")
        self.reads += 1
        return replace(TOTALS, resident_bytes=self.reads)

    def view(self) -> View:
        found = self.latest.view()
        assert found is not None
        return found


@pytest.fixture
def served() -> Served:
    found = Served()
    found.latest.report(STATE)
    found.latest.read_with(found.read)
    return found


def test_there_is_no_view_before_the_first_report_and_the_first_totals() -> None:
    served = Served()
    assert (served.latest.view(), served.latest.unready()) == (None, ("starting",))
    served.latest.report(STATE)
    assert (served.latest.view(), served.latest.unready()) == (None, ())
    served.latest.read_with(served.read)
    assert served.view().state is STATE


def test_the_kernel_is_read_once_a_second_and_the_report_is_always_the_newest(served: Served) -> None:
    first = served.view()
    served.latest.report(replace(STATE, at=2.0))
    assert (served.view().state.at, served.view().totals) == (2.0, first.totals)
    served.now += CACHE_SECONDS + 0.1
    assert (served.view().totals.resident_bytes, served.reads) == (2, 2)


def test_losses_of_outputs_stand_beside_the_kernel_s(served: Served) -> None:
    assert dict(served.view().totals.losses) == {"ring_full": 0, "flows_quota": 4, "followers": 7}


def test_after_the_agent_s_end_the_last_totals_stay(served: Served) -> None:
    before = served.view()
    served.gone, served.now = True, served.now + 10
    assert served.view().totals == before.totals


def test_a_writing_thread_that_is_silent_for_long_is_dead(served: Served) -> None:
    served.latest.report(replace(STATE, at=served.now))
    served.now += STANDS_STILL_SECONDS
    assert served.latest.dead() == ()
    served.now += 1
    assert served.latest.dead() == ("the writing thread has published nothing for 121 s",)
    served.latest.report(replace(STATE, at=served.now))
    assert served.latest.dead() == ()


def test_readiness_names_each_problem_and_each_hook_that_is_off(served: Served) -> None:
    served.latest.report(unready(kernel="map rules: full").state)
    assert served.latest.unready() == ("map rules: full",)
    off = replace(STATE.status, hooks=(HookState("connect4", "/kubepods", attached=False, program_id=0),))
    served.latest.report(replace(STATE, status=off))
    assert served.latest.unready() == ("connect4 is not attached to /kubepods",)


def test_what_is_lacking_is_no_reason_not_to_be_ready(served: Served) -> None:
    status = replace(STATE.status, without_events=("manifests: no inotify watch is left",))
    served.latest.report(
        replace(STATE, status=status, facts=replace(FACTS, features={"sockops": False, "skb_netns": True}))
    )
    assert served.latest.unready() == ()
    assert served.latest.lacking() == ("off on this node: sockops", "manifests: no inotify watch is left")


def test_a_writing_thread_that_is_busy_for_long_is_not_ready_and_not_dead(served: Served) -> None:
    served.latest.report(replace(STATE, at=served.now))
    served.now += SLOW_SECONDS
    assert served.latest.unready() == ()
    served.now += 1
    assert served.latest.unready() == ("the writing thread has published nothing for 11 s",)
    assert served.latest.dead() == ()
