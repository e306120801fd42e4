"""The writer on maps of dictionaries: refused revisions, leaving pods, restarts, damaged maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from immutables import Map

from agent.abi.structs import ENDPOINT, U32, pack_folder, pack_rule_key
from agent.errors import CapacityError, MapError
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, Subject, TaskPeer
from agent.model.verdict import Direction, EndpointState
from agent.model.want import Want
from agent.sync.allocate import IdentityNumbers
from agent.sync.endpoints import LINGER_SECONDS
from agent.sync.intake import Intake
from agent.sync.plan import plan_whole
from agent.sync.writer import Writer
from tests.unit.dictmaps import DictMaps, Probe, Replay

A, B = PodUid("a"), PodUid("b")
POLICY = PolicyRef("etl", "TaskNetworkPolicy", "p")
PEER = ip_address("8.8.8.8")
TO_443: Probe = (Direction.EGRESS, PEER, 6, 443)
TO_80: Probe = (Direction.EGRESS, PEER, 6, 80)


def pod(uid: PodUid, dag: str = "dag") -> Pod:
    claim = Claim(Identity("c", "etl", "sa", dag, "t", Kind.KUBERNETES_EXECUTOR), ())
    return Pod(uid=uid, namespace="etl", name=uid, claim=claim, addresses=(ip_address(f"10.0.0.{ord(uid[0])}"),))


def policy(port: int) -> Policy:
    match = PortMatch(6, port)
    peer = CidrPeer(ip_network("8.8.8.0/24"))
    return Policy(ref=POLICY, subject=Subject(), egress=(Rule("r", Direction.EGRESS, (peer,), (match,)),))


def cluster(*pods: Pod, port: int = 443) -> Cluster:
    return Cluster(
        complete=True,
        pods=Map({p.uid: p for p in pods}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({POLICY: policy(port)}),
    )


class Limit:
    """A capacity check that a test can close."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, _want: Want, _cluster: Cluster) -> None:
        if self.closed:
            raise CapacityError("map rules: full")


def started(maps: DictMaps, snapshot: Cluster, limit: Limit | None = None) -> Writer:
    writer = Writer(maps, IdentityNumbers(), Intake(limit or Limit()))
    writer.start(snapshot, [(A, 10), (A, 11)])
    return writer


def passes(maps: DictMaps, cgroup_id: int, probe: Probe) -> bool | None:
    return Replay(maps.contents()).ask((cgroup_id, probe))


def slot(maps: DictMaps, cgroup_id: int) -> int:
    endpoint = maps.endpoint(cgroup_id)
    assert endpoint is not None
    return endpoint["slot"]


def in_step(writer: Writer, maps: DictMaps) -> bool:
    return not plan_whole(writer.want, maps)


def test_start_enforces_what_the_snapshot_says() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    assert [passes(maps, 10, TO_443), passes(maps, 11, TO_443), passes(maps, 10, TO_80)] == [True, True, False]
    assert in_step(writer, maps)
    assert maps.epoch(slot(maps, 10)) == 1


def test_what_another_program_changes_in_the_maps_is_found_and_mended() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    before = maps.contents()
    assert writer.differing(whole=True) == {}
    changed = next(iter(maps["endpoints"].entries))
    maps["endpoints"].entries[changed] = bytes(len(maps["endpoints"].entries[changed]))
    maps["endpoints"].entries[pack_folder(77)] = b"a stranger's"
    rules = len(maps["rules"].entries)
    maps["rules"].entries.clear()
    assert writer.differing(whole=False) == {"endpoints": 2}
    assert writer.differing(whole=True) == {"endpoints": 2, "rules": rules}
    writer.resync()
    assert writer.differing(whole=True) == {}
    for name in ("endpoints", "rules", "peers", "hosts"):
        assert maps.contents()[name] == before[name]


def test_epochs_and_nearby_that_another_program_changes_are_mended_too() -> None:
    """An older epoch makes revoked flows current again; a stranger in `nearby` is a pod that nobody judges (P10)."""
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    writer.update(cluster(pod(A), port=80), EVERYTHING)
    assert writer.differing(whole=True) == {}
    epochs, nearby = maps["epochs"].entries, maps["nearby"].entries
    epochs[U32.pack(value=slot(maps, 10))] = bytes(len(next(iter(epochs.values()))))
    nearby[U32.pack(value=10)] = b"\1" * len(next(iter(nearby.values())))
    nearby[U32.pack(value=4000)] = b"\1" * len(next(iter(nearby.values())))
    assert writer.differing(whole=True) == {"epochs": 1, "nearby": 2}
    writer.resync()
    assert writer.differing(whole=True) == {}
    assert maps.epoch(slot(maps, 10)) > 2


def test_a_first_revision_that_does_not_fit_writes_nothing() -> None:
    maps, limit = DictMaps(), Limit()
    limit.closed = True
    with pytest.raises(CapacityError):
        started(maps, cluster(pod(A)), limit)
    assert maps.journal == []


def test_a_refused_revision_keeps_the_old_one_and_its_changes_are_not_forgotten() -> None:
    maps, limit = DictMaps(), Limit()
    writer = started(maps, cluster(pod(A)), limit)
    before = maps.contents()
    limit.closed = True
    too_big = cluster(pod(A), pod(B), port=80)
    assert "full" in writer.update(too_big, EVERYTHING | Changes(pods=frozenset({B}))).refused
    assert maps.contents() == before
    assert in_step(writer, maps)
    limit.closed = False
    outcome = writer.update(replace(too_big, revision=3), Changes())  # what was refused is in this one too
    assert not outcome.refused
    writer.add_folder(B, 20)
    assert [passes(maps, c, TO_80) for c in (10, 20)] == [True, True]
    assert passes(maps, 10, TO_443) is False
    assert in_step(writer, maps)


def test_a_pod_of_a_refused_revision_is_an_endpoint_of_the_next() -> None:
    maps, limit = DictMaps(), Limit()
    writer = started(maps, cluster(pod(A)), limit)
    limit.closed = True
    both = cluster(pod(A), pod(B))
    assert writer.update(both, Changes(pods=frozenset({B}))).refused
    limit.closed = False
    writer.update(both, Changes(pods=frozenset({A})))
    writer.add_folder(B, 20)
    assert passes(maps, 20, TO_443) is True


def test_a_revocation_bumps_and_an_addition_does_not() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    epoch = maps.epoch(slot(maps, 10))
    assert writer.update(cluster(pod(A), pod(B, "other")), Changes(pods=frozenset({B}))).bumped == 0
    assert maps.epoch(slot(maps, 10)) == epoch
    assert writer.update(cluster(pod(A), pod(B, "other"), port=80), EVERYTHING).bumped >= 1
    assert maps.epoch(slot(maps, 10)) > epoch


def test_a_leaving_pod_keeps_its_rules_until_its_folder_went_long_ago() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    writer.update(cluster(), Changes(pods=frozenset({A})))
    assert passes(maps, 10, TO_443) is True
    assert passes(maps, 10, TO_80) is False
    writer.update(cluster(port=80), EVERYTHING)  # an edit reaches it still
    assert passes(maps, 10, TO_80) is True
    for folder in (10, 11):
        writer.remove_folder(folder, 100.0)
    assert writer.expire(100 + LINGER_SECONDS - 1).gone == []
    assert passes(maps, 10, TO_80) is True
    assert writer.expire(100 + LINGER_SECONDS).gone == [A]
    assert maps["endpoints"].entries == {}
    assert A not in writer.cluster.pods
    assert in_step(writer, maps)


def test_the_next_agent_adopts_and_writes_nothing_but_new_epochs() -> None:
    """The last one may have died before it wrote those of a revocation (P10)."""
    maps = DictMaps()
    before = started(maps, cluster(pod(A)))
    contents, epoch = maps.contents(), maps.epoch(slot(maps, 10))
    after = Writer(maps, IdentityNumbers(before.endpoints.numbers.snapshot()), Intake(Limit()))
    after.start(cluster(pod(A)), [(A, 10), (A, 11)])
    changed = {name for name, entries in maps.contents().items() if entries != contents[name]}
    assert changed == {"epochs", "nearby"}
    assert maps.epoch(slot(maps, 10)) > epoch


def test_what_was_revoked_while_no_agent_looked_is_judged_again() -> None:
    maps = DictMaps()
    before = started(maps, cluster(pod(A)))
    epoch = maps.epoch(slot(maps, 10))
    after = Writer(maps, IdentityNumbers(before.endpoints.numbers.snapshot()), Intake(Limit()))
    after.start(cluster(pod(A), port=80), [(A, 10), (A, 11)])
    assert passes(maps, 10, TO_443) is False
    assert maps.epoch(slot(maps, 10)) > epoch


def test_a_peer_that_changed_while_no_agent_looked_is_judged_again() -> None:
    """The ruleset is the same, what its addresses are is not."""
    maps = DictMaps()
    to_tasks = Rule("r", Direction.EGRESS, (TaskPeer(("friend",), (), None),), None)
    tasks = {POLICY: Policy(ref=POLICY, subject=Subject(), egress=(to_tasks,))}
    to_b: Probe = (Direction.EGRESS, pod(B).addresses[0], 6, 80)
    before = started(maps, replace(cluster(pod(A), pod(B, "friend")), policies=Map(tasks)))
    assert passes(maps, 10, to_b) is True
    epoch = maps.epoch(slot(maps, 10))
    after = Writer(maps, IdentityNumbers(before.endpoints.numbers.snapshot()), Intake(Limit()))
    after.start(replace(cluster(pod(A), pod(B, "stranger")), policies=Map(tasks)), [(A, 10), (A, 11)])
    assert passes(maps, 10, to_b) is False
    assert maps.epoch(slot(maps, 10)) > epoch


def test_an_incomplete_first_list_prunes_nothing() -> None:
    maps = DictMaps()
    before = started(maps, cluster(pod(A)))
    after = Writer(maps, IdentityNumbers(before.endpoints.numbers.snapshot()), Intake(Limit()))
    after.start(replace(cluster(), complete=False, pods=Map()), [])
    assert maps.endpoint(10) is not None


@pytest.mark.parametrize("name", ["rules", "endpoints", "epochs", "nearby"])
def test_resync_mends_what_a_refusing_map_left(name: str) -> None:
    maps, reference = DictMaps(), DictMaps()
    snapshot = cluster(pod(A), pod(B), port=80)
    writer = started(maps, cluster(pod(A)))
    writer.add_folder(B, 20)
    epoch = maps.epoch(slot(maps, 10))
    maps[name].refuse = 0
    with pytest.raises(MapError):
        writer.update(snapshot, EVERYTHING | Changes(pods=frozenset({B})))
    maps[name].refuse = None
    writer.take_questioned()
    writer.resync()
    assert set(writer.take_questioned()) == {10, 20}, "their open connections are judged again (P10)"
    assert writer.take_questioned() == ()
    other = started(reference, snapshot)
    other.add_folder(B, 20)
    assert in_step(writer, maps)
    for each in ("rules", "peers", "hosts"):
        assert maps[each].entries == reference[each].entries
    for cgroup in (10, 11, 20):
        assert passes(maps, cgroup, TO_80) is True
        assert passes(maps, cgroup, TO_443) is False
    assert maps.epoch(slot(maps, 10)) > epoch


def test_resync_repairs_a_damaged_map_and_removes_strangers() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    good = maps.contents()
    for name in ("rules", "peers", "endpoints"):
        for key in list(maps[name].entries):
            maps[name].entries[key] = bytes(len(maps[name].entries[key]))
        some = next(iter(good[name]))
        maps[name].entries[some[:4] + b"\xff" * (len(some) - 4)] = bytes(len(next(iter(good[name].values()))))
    writer.resync()
    assert in_step(writer, maps)
    for name in ("rules", "peers", "endpoints"):
        assert maps[name].entries == good[name]


def test_resync_before_the_first_complete_list_deletes_nothing() -> None:
    maps = DictMaps()
    before = started(maps, cluster(pod(A)))
    contents = maps.contents()
    after = Writer(maps, IdentityNumbers(before.endpoints.numbers.snapshot()), Intake(Limit()))
    after.start(replace(cluster(), complete=False, pods=Map()), [(A, 10)])
    after.resync()
    for name in ("rules", "peers", "hosts", "endpoints"):
        assert maps[name].entries == contents[name]
    assert passes(maps, 10, TO_443) is True


def test_evictions_are_told_without_touching_the_epoch() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    at = slot(maps, 10)
    epoch = maps.epoch(at)
    writer.evicted(Counter({(at, Direction.EGRESS): 3, (at, Direction.INGRESS): 1}))
    writer.evicted(Counter({(at, Direction.EGRESS): 2}))
    assert (maps.epoch(at), maps.evicted(at)) == (epoch, (5, 1))
    again = Writer(maps, IdentityNumbers(), Intake(Limit()))
    again.evicted(Counter({(at, Direction.EGRESS): 1}))
    assert maps.evicted(at) == (6, 1)


def test_making_room_for_one_namespace_s_policy_holds_no_other_one_s_pods() -> None:
    maps = DictMaps()
    writer = Writer(maps, IdentityNumbers(), Intake(Limit()))
    other_ref = PolicyRef("other", "TaskNetworkPolicy", "p")
    claim = replace(pod(B).claim, identity=replace(pod(B).claim.identity, namespace="other"))
    snapshot = cluster(pod(A), replace(pod(B), namespace="other", claim=claim))
    snapshot = replace(
        snapshot,
        namespaces=snapshot.namespaces.set("other", Namespace("other", managed=True)),
        policies=snapshot.policies.set(other_ref, replace(policy(443), ref=other_ref)),
    )
    writer.start(snapshot, [(A, 10), (B, 20)])
    maps["rules"].room = writer.entries["rules"] = len(maps["rules"].entries)
    maps.take_journal()
    edited = replace(snapshot, policies=snapshot.policies.set(POLICY, policy(80)), revision=2)
    assert not writer.update(edited, EVERYTHING).refused
    states = {
        cgroup: [
            ENDPOINT.unpack(value)["state"]
            for name, key, value in maps.journal
            if key == pack_folder(cgroup) and value
        ]
        for cgroup in (10, 20)
    }
    assert EndpointState.PENDING in states[10]
    assert EndpointState.PENDING not in states[20]
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [False, True]
    assert [passes(maps, 20, TO_443), passes(maps, 20, TO_80)] == [True, False]
    assert in_step(writer, maps)


def test_maps_that_were_left_full_are_mended() -> None:
    """A revision that died half way has left rows that nobody wants in a map without room (P17)."""
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    room = len(maps["rules"].entries)
    for key in list(maps["rules"].entries)[1:]:
        del maps["rules"].entries[key]
    strangers = {pack_rule_key(7, i, 0, (0, 0)): b"" for i in range(room)}
    maps["rules"].entries |= dict(list(strangers.items())[: room - 1])
    maps["rules"].room = writer.entries["rules"] = room
    writer.resync()
    assert in_step(writer, maps)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]


def test_unknown_pods_are_pending_and_classified_ones_pass() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    writer.add_folder(B, 20)
    assert writer.pending() == [B]
    assert maps.endpoint(20) is None
    writer.assign_without_pod(B, replace(writer.want.assignments[A], state=EndpointState.UNMANAGED))
    assert writer.pending() == []
    assert passes(maps, 20, TO_80) is True
    writer.update(cluster(pod(A), pod(B)), Changes(pods=frozenset({B})))
    assert passes(maps, 20, TO_80) is False  # the compiler's word wins
    assert U32.pack(value=slot(maps, 20)) in maps["epochs"].entries


def test_nothing_is_written_before_the_first_complete_list_and_everything_with_it() -> None:
    maps = DictMaps()
    writer = started(maps, replace(cluster(pod(A)), complete=False))
    writer.update(replace(cluster(pod(A)), complete=False, revision=2), Changes(everything_else=True))
    assert maps.take_journal() == []
    writer.update(cluster(pod(A)), Changes(everything_else=True))
    assert passes(maps, 10, TO_443)
    assert not passes(maps, 10, TO_80)


def test_a_pod_that_the_api_forgot_while_no_agent_ran_keeps_its_rules_with_its_folder() -> None:
    """L4, across a restart."""
    maps = DictMaps()
    started(maps, cluster(pod(A)))
    after = Writer(maps, IdentityNumbers(), Intake(lambda *_: None), {A: pod(A).claim})
    after.start(cluster(), [(A, 10), (A, 11)])
    assert passes(maps, 10, TO_443)
    assert not passes(maps, 10, TO_80)
    assert after.pending() == []
    for folder in (10, 11):
        after.remove_folder(folder, 0.0)
    after.expire(LINGER_SECONDS + 1)
    after.resync()
    assert maps["rules"].entries == {}


def test_a_first_list_that_does_not_fit_is_refused_and_the_maps_stay() -> None:
    maps, limit = DictMaps(), Limit()
    started(maps, cluster(pod(A)))
    before = maps.contents()
    after = Writer(maps, IdentityNumbers(), Intake(limit))
    after.start(replace(cluster(), complete=False), [(A, 10), (A, 11)])
    limit.closed = True
    assert "full" in after.update(cluster(pod(A), port=80), Changes(everything_else=True)).refused
    assert maps.contents() == before
    limit.closed = False
    assert not after.update(cluster(pod(A), port=80), Changes(everything_else=True)).refused
    assert passes(maps, 10, TO_80)


def test_a_refused_revision_is_not_forgotten_when_a_pod_s_time_ends_meanwhile() -> None:
    maps, limit = DictMaps(), Limit()
    writer = started(maps, cluster(pod(A)), limit)
    writer.update(cluster(), Changes(pods=frozenset({A})))  # A leaves: its folders are still there
    limit.closed = True
    refused = cluster(pod(B), port=80)
    assert writer.update(refused, Changes(pods=frozenset({B}), everything_else=True)).refused
    limit.closed = False
    for folder in (10, 11):
        writer.remove_folder(folder, 0.0)
    writer.expire(LINGER_SECONDS + 1)
    other = PodUid("c")
    writer.add_folder(B, 20)
    writer.update(cluster(pod(B), pod(other), port=80), Changes(pods=frozenset({other})))
    assert passes(maps, 20, TO_80)
    assert not passes(maps, 20, TO_443)


def without_namespace(*pods: Pod) -> Cluster:
    """Its policies are still there: what is gone or cannot be read is the namespace."""
    return replace(cluster(*pods), namespaces=Map({"other": Namespace("other")}))


def test_a_namespace_that_goes_while_its_pods_live_stays_what_it_was() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    writer.update(without_namespace(pod(A)), EVERYTHING)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
    writer.update(without_namespace(), Changes(pods=frozenset({A})))  # force-deleted; its process lives
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
    assert writer.cluster.namespaces["etl"].managed, "and that is what the state folder keeps"
    for cgroup in (10, 11):
        writer.remove_folder(cgroup, 0.0)
    writer.expire(LINGER_SECONDS + 1)
    writer.update(replace(without_namespace(), revision=9), EVERYTHING)
    assert set(writer.cluster.namespaces) == {"other"}
    assert in_step(writer, maps)


def test_policies_that_go_with_their_namespace_hold_while_its_pods_live() -> None:
    """Kubernetes deletes what is in a namespace before the namespace; a process may outlive all of it (L4)."""
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    going = replace(cluster(pod(A)), namespaces=Map({"etl": Namespace("etl", managed=True, terminating=True)}))
    emptied = replace(going, policies=Map(), revision=2)
    gone = replace(without_namespace(), policies=Map(), revision=3)
    for snapshot in (going, emptied, replace(emptied, pods=Map()), gone):
        writer.update(snapshot, EVERYTHING | Changes(pods=frozenset({A})))
        assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
    for cgroup in (10, 11):
        writer.remove_folder(cgroup, 0.0)
    writer.expire(LINGER_SECONDS + 1)
    writer.update(replace(gone, revision=9), EVERYTHING)
    assert not writer.cluster.policies
    assert in_step(writer, maps)


AGAIN = [
    pytest.param(Namespace("etl"), id="unlabelled"),
    pytest.param(Namespace("etl", managed=True), id="managed, observing"),
]


def unseen(then: Namespace) -> list[Cluster]:
    """Deleted and made again between two looks: only its uid is another one."""
    return [replace(cluster(), namespaces=Map({"etl": replace(then, uid="2")}), policies=Map(), revision=4)]


def seen_going(then: Namespace) -> list[Cluster]:
    gone = replace(without_namespace(), policies=Map(), revision=3)
    return [gone, replace(gone, namespaces=Map({"etl": then}), revision=4)]


def seen_terminating(then: Namespace) -> list[Cluster]:
    going = replace(cluster(), namespaces=Map({"etl": Namespace("etl", managed=True, terminating=True)}))
    return [going, replace(going, policies=Map(), namespaces=Map({"etl": then}), revision=4)]


@pytest.mark.parametrize("then", AGAIN)
@pytest.mark.parametrize("way", [unseen, seen_going, seen_terminating])
def test_what_is_left_of_a_namespace_is_not_of_the_one_that_is_made_again(
    way: Callable[[Namespace], list[Cluster]], then: Namespace
) -> None:
    """A process outlives its namespace; another one of that name opens nothing to it (L2, L4)."""
    maps = DictMaps()
    first = cluster(pod(A))
    first = replace(first, namespaces=Map({"etl": replace(first.namespaces["etl"], uid="1")}))
    writer = started(maps, first)
    for snapshot in way(then):
        writer.update(snapshot, EVERYTHING | Changes(pods=frozenset({A})))
        assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
    now = writer.cluster
    writer.update(
        replace(now, pods=Map({B: pod(B)}), policies=Map(), namespaces=way(then)[-1].namespaces), EVERYTHING
    )
    writer.add_folder(B, 20)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False], "as long as it lives"
    assert [passes(maps, 20, TO_443), passes(maps, 20, TO_80)] == [True, True], "the new one's own"
    for cgroup in (10, 11):
        writer.remove_folder(cgroup, 0.0)
    writer.expire(LINGER_SECONDS + 1)
    writer.update(replace(way(then)[-1], revision=9), EVERYTHING)
    assert set(writer.cluster.namespaces) == {"etl"}
    assert in_step(writer, maps)


def test_a_policy_of_a_namespace_that_stays_goes_at_once() -> None:
    maps = DictMaps()
    writer = started(maps, cluster(pod(A)))
    writer.update(replace(cluster(pod(A)), policies=Map()), EVERYTHING)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, True], "an observing namespace"


def test_an_agent_that_starts_after_the_namespace_went_denies_what_nobody_allows() -> None:
    """Which policies the pod had is in no list any more: doubt never opens."""
    maps = DictMaps()
    started(maps, cluster(pod(A)))
    gone = replace(without_namespace(), policies=Map())
    remembered = Cluster(namespaces=Map({"etl": Namespace("etl", managed=True)}))
    writer = Writer(maps, IdentityNumbers(), Intake(Limit()), {A: pod(A).claim})
    writer.start(remembered, [(A, 10), (A, 11)])
    writer.update(replace(Cluster(), revision=2), EVERYTHING)  # the list of namespaces came first
    writer.update(gone, EVERYTHING)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [False, False]


def test_a_pod_that_nobody_knows_after_a_start_does_not_fall_to_its_defaults() -> None:
    """The rows that denied went with the ruleset that nobody has any more; its entry would allow the rest (L2)."""
    maps = DictMaps()
    denies = replace(policy(80), egress=None, deny=policy(80).egress or ())
    started(maps, replace(cluster(pod(A)), policies=Map({POLICY: denies})))
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
    writer = Writer(maps, IdentityNumbers(), Intake(Limit()))  # which has forgotten the claim, too
    writer.start(replace(cluster(), policies=Map()), [(A, 10), (A, 11)])
    assert [passes(maps, cgroup, TO_80) for cgroup in (10, 11)] == [False, False]


def test_a_pod_that_nobody_knows_is_revoked_and_held_with_the_ruleset_that_it_shares() -> None:
    """An agent that has lost its state finds its entry in the maps: it is good while another pod has that ruleset."""
    maps = DictMaps()
    denies = replace(policy(80), egress=None, deny=policy(80).egress or ())
    snapshot = replace(cluster(pod(A), pod(B)), policies=Map({POLICY: denies}))
    Writer(maps, IdentityNumbers(), Intake(Limit())).start(snapshot, [(A, 10), (B, 20)])
    writer = Writer(maps, IdentityNumbers(), Intake(Limit()))
    writer.start(replace(snapshot, pods=Map({B: pod(B)})), [(A, 10), (B, 20)])
    assert [passes(maps, cgroup, TO_80) for cgroup in (10, 20)] == [False, False]
    assert passes(maps, 10, TO_443) is True
    epoch = maps.epoch(slot(maps, 10))
    writer.update(replace(snapshot, pods=Map({B: pod(B)}), policies=Map(), revision=2), EVERYTHING)
    assert [passes(maps, 20, TO_80), passes(maps, 20, TO_443)] == [True, True]
    assert [passes(maps, 10, TO_80), passes(maps, 10, TO_443)] == [False, False], "pending: its rules are gone"
    assert maps.epoch(slot(maps, 10)) > epoch
    assert writer.pending() == [A]


def test_a_pod_of_a_namespace_that_was_never_known_is_pending() -> None:
    maps = DictMaps()
    writer = started(maps, without_namespace(pod(A)))
    assert writer.pending() == [A]
    assert maps.endpoint(10) is None
    writer.update(cluster(pod(A)), EVERYTHING)
    assert [passes(maps, 10, TO_443), passes(maps, 10, TO_80)] == [True, False]
