"""Order of a plan: after every single write, what both versions allow passes, and what both deny does not.

An endpoint that is held back (Delta.held) is denied everything meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from agent.abi.structs import ENDPOINT, folder_id
from agent.model.changes import Changes, between
from agent.model.cluster import Cluster
from agent.model.verdict import Direction, EndpointState
from agent.sync.allocate import IdentityNumbers
from agent.sync.endpoints import EndpointOps
from agent.sync.intake import Intake
from agent.sync.plan import Carrier, Plan, add_endpoints, questioning
from agent.sync.seqlock import SeqLock
from agent.sync.writer import Writer
from tests.unit import clusters
from tests.unit.dictmaps import GRACE, DictMaps, Lookup, Replay, Write

Contents = dict[str, dict[bytes, bytes]]
PROBES = [(d, a, protocol, port) for d in Direction for a in clusters.ADDRESSES for protocol, port in clusters.PROBES]


def torn(before: Contents, after: Contents, journal: list[Write], lookups: list[Lookup]) -> list[str]:
    """Lookups on which both versions agree, and some state between them does not."""
    replay, final, held = Replay(before), Replay(after), held_back(journal)
    agreed = {each: was for each in lookups if (was := replay.ask(each)) is not None and was == final.ask(each)}
    agreed = {each: was for each, was in agreed.items() if not was or each[0] not in held}
    for step, write in enumerate(journal):
        if write[0] == GRACE:
            continue
        wrong = [each for each in replay.write(*write) & agreed.keys() if replay.ask(each) != agreed[each]]
        if wrong:
            return [f"write {step} of {len(journal)}, {write[0]}: {each} was {agreed[each]}" for each in wrong]
    return []


def held_back(journal: list[Write]) -> set[int]:
    """Folders of endpoints that are pending for a while."""
    entries = ((key, ENDPOINT.unpack(value)) for name, key, value in journal if name == "endpoints" and value)
    return {folder_id(key) for key, endpoint in entries if endpoint["state"] == EndpointState.PENDING}


def edited(seed: int, counts: Callable[[Changes], bool]) -> list[str] | None:
    """What one random edit tears; None for an edit that does not count."""
    r = Random(seed)
    was = replace(clusters.cluster(r), complete=True)
    now = clusters.changed(r, was)
    lived = replace(was.settings, host_addresses=now.settings.host_addresses)  # the others change with a new agent
    now = replace(now, settings=lived)
    if not counts(between(was, now)):
        return None
    maps = DictMaps()
    writer = Writer(maps, IdentityNumbers(), Intake(lambda *_: None))
    places = folders(was, now)
    writer.start(was, list(places.items()))
    maps.take_journal()
    before = maps.contents()
    writer.update(now, between(was, now))
    lookups = [(cgroup, probe) for cgroup in places.values() for probe in r.sample(PROBES, 150)]
    return torn(before, maps.contents(), maps.take_journal(), lookups)


def folders(*snapshots: Cluster) -> dict[str, int]:
    uids = sorted({uid for snapshot in snapshots for uid in snapshot.pods})
    return {uid: 1000 + n for n, uid in enumerate(uids)}


def test_services_that_come_and_go_tear_no_verdict() -> None:
    found = [edited(seed, lambda c: bool(c.services or c.slices)) for seed in range(250)]
    assert sum(each is not None for each in found) > 50
    assert not [each for each in found if each]


@pytest.mark.parametrize("part", range(3))
def test_no_edit_tears_a_verdict(part: int) -> None:
    found = [edited(seed, lambda _: True) for seed in (12, 13, 89, 166, *range(150))[part::3]]
    assert not [each for each in found if each]


def test_endpoints_come_after_what_they_refer_to_and_go_before_it() -> None:
    maps = DictMaps()
    maps["rules"].entries[b"old"] = b""
    plan = Plan(upserts=[("rules", [(b"new", b"1")])], deletes=[("rules", [b"old"])])
    ops = EndpointOps(entries={10: b"endpoint", 11: None})
    add_endpoints(plan, ops)
    plan.closing = questioning([(b"slot", b"epoch")], [(b"index", b"nearby")])
    assert plan
    assert plan.writes == 6
    Carrier(maps, SeqLock()).apply(plan)
    order = [(name, value is None) for name, _, value in maps.journal]
    assert order == [
        ("rules", False), ("endpoints", False), ("epochs", False), ("nearby", False), ("endpoints", True),
        (GRACE, True), ("rules", True),
    ]  # fmt: skip


def test_a_rule_goes_after_the_addresses_that_lead_to_it() -> None:
    both = 0
    for seed in range(20):
        maps = DictMaps()
        writer = Writer(maps, IdentityNumbers(), Intake(lambda *_: None))
        r = Random(seed)
        was = replace(clusters.cluster(r), complete=True)
        writer.start(was, list(folders(was).items()))
        maps.take_journal()
        now = clusters.changed(r, was)
        writer.update(now, between(was, now))
        gone = [name for name, _, value in maps.take_journal() if value is None and name != GRACE]
        assert gone == sorted(gone, key=["names", "peers", "hosts", "endpoints", "rules", "parts", "servers"].index)
        both += {"rules", "hosts"} <= set(gone)
    assert both


def test_an_empty_plan_is_false_and_touches_nothing() -> None:
    maps = DictMaps()
    plan = Plan(upserts=[("rules", [])], deletes=[("rules", [])])
    assert not plan
    Carrier(maps, SeqLock()).apply(plan)
    assert maps.journal == []
