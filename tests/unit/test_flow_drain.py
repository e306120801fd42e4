"""The draining thread on maps of dictionaries: what grew is reported, what is idle goes, what is lost is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

import dns.message
import dns.rcode
import dns.rrset
import pytest

from agent.abi.structs import EPOCH, FLOW, FLOW_KEY, SLOT, U32, pack_address
from agent.flows.account import Accountant
from agent.flows.decode import RawAnswer
from agent.flows.join import NameOf
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Address, Pod, Settings
from agent.model.flow import Denial, FailedLookup, Flow, Outcome, PeerKind, PeerName
from agent.model.identity import Claim, PodUid
from agent.model.verdict import Direction, DropReason, EventKind, Verdict
from agent.node.flow_drain import UNKNOWN_PEER_SECONDS, WAITING, Clocks, FlowDrain, Snapshot, lost_evictions
from agent.node.folding import Folding
from agent.sync.epochs import Share
from tests.unit.fake_kernel import Clock, FakeKernel
from tests.unit.test_flows_join import CLUSTER, CONTEXT, EVENT, FACTS

HZ = 100
PEER = ip_address("203.0.113.5")
UNKNOWN = replace(EVENT, reason=DropReason.UNKNOWN_PEER, direction=Direction.INGRESS, peer=PEER)
TCP, UDP = 6, 17
RANGES = replace(CLUSTER, settings=Settings(pod_ranges=(ip_network("203.0.113.0/24"),)))
HERE = replace(CONTEXT, cluster=RANGES)


@dataclass
class Drained:
    """A drain whose clocks, jiffies and open sockets a test sets."""

    kernel: FakeKernel = field(default_factory=FakeKernel)
    clock: Clock = field(default_factory=Clock)
    jiffies: int = 10_000
    open: set[bytes] = field(default_factory=set)
    flows_seen: list[list[Flow]] = field(default_factory=list)
    denials_seen: list[Denial] = field(default_factory=list)
    lookups_seen: list[FailedLookup] = field(default_factory=list)
    ended: list[Outcome] = field(default_factory=list)
    evicted: Counter[Share] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.drain = FlowDrain(
            self.kernel.maps, jiffies=self, receivers=(self, self),
            accountant=Accountant(datagram_idle_ticks=65 * HZ, tcp_idle_ticks=900 * HZ),
            evicted=self.evicted.update, still_open=lambda keys: self.open & set(keys),
            folding=Folding(self.kernel.maps["denials"]), taken=set[int], interval_seconds=5.0, hz=HZ,
            clocks=Clocks(self.clock, lambda: 5_000.0),
        )  # fmt: skip

    def now(self) -> int:
        return self.jiffies

    def flows(self, flows: list[Flow]) -> None:
        self.flows_seen.append(flows)

    def denials(self, denials: list[Denial]) -> None:
        self.denials_seen += denials

    def outcomes(self, outcomes: list[Outcome]) -> None:
        self.ended.extend(outcomes)

    def lookups(self, lookups: list[FailedLookup]) -> None:
        self.lookups_seen += lookups

    def put(self, packets: int, *, last: int, protocol: int = TCP, port: int = 443) -> bytes:
        key = FLOW_KEY.pack(
            cgroup_id=4711, peer=pack_address(PEER), service_port=port, protocol=protocol, direction=Direction.EGRESS
        )
        self.kernel.maps["flows"].put(
            key, FLOW.pack(slot=1, last=last, first=1, verdict=Verdict.ALLOW, sent_packets=packets)
        )
        return key


@pytest.fixture
def drained() -> Drained:
    found = Drained()
    found.drain.take(Snapshot(HERE, {1: FACTS}, EVERYTHING))
    return found


class Clumsy:
    """An output with a defect."""

    def flows(self, seen: object) -> None:
        raise AttributeError(f"no such thing in {seen}")

    denials = lookups = flows


def test_what_trips_the_agent_up_costs_one_record_and_no_thread(
    drained: Drained, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever could send such a thing would end the node's agent with it (S1, R2)."""
    drained.drain._receivers = (Clumsy(), drained)
    drained.drain._joiner._name_of = _fails_for(PEER)
    other = replace(EVENT, peer=ip_address("203.0.113.77"))
    bad = drained.put(3, last=drained.jiffies)
    good = FLOW_KEY.pack(cgroup_id=4711, peer=pack_address(other.peer), service_port=443, protocol=TCP)
    drained.kernel.maps["flows"].put(good, drained.kernel.maps["flows"].get(bad) or b"")
    drained.kernel.maps["flows"].put(bytes(FLOW_KEY.size), b"\xff" * FLOW.size)  # a verdict of another version
    drained.drain.take(replace(EVENT, peer=PEER))
    drained.drain.take(other)
    drained.drain.drain_flows()
    assert [denial.tuple.peer for denial in drained.denials_seen] == [other.peer]
    assert [flow.tuple.peer for flow in drained.flows_seen[0]] == [other.peer]
    assert drained.drain.lost()["records_not_understood"] == 5, "2 of the names', 2 of the output's, 1 entry"
    said = [record for record in caplog.records if record.message == "record.not_understood"]
    assert len(said) == 1
    assert said[0].exc_info is not None


def _fails_for(peer: Address) -> NameOf:
    def name_of(address: Address) -> PeerName:
        if address == peer:
            raise AttributeError("no such name")
        return PeerName(PeerKind.ENTITY, "world")

    return name_of


def test_before_a_first_snapshot_nothing_is_read_or_reported() -> None:
    drained = Drained()
    drained.put(1, last=drained.jiffies)
    drained.drain.take(EVENT)
    drained.drain.drain_flows()
    assert (drained.flows_seen, drained.denials_seen) == ([], [])


def test_growth_goes_to_every_receiver_with_the_time_of_its_last_packet(drained: Drained) -> None:
    drained.put(3, last=drained.jiffies - 2 * HZ)
    drained.put(1, last=drained.jiffies - 7 * HZ, port=80)
    drained.drain.drain_flows()
    first, second = drained.flows_seen
    assert first is second
    assert [(flow.time, flow.tuple.service_port, flow.new) for flow in first] == [
        (4993.0, 80, True),
        (4998.0, 443, True),
    ]
    drained.put(5, last=drained.jiffies)
    drained.drain.drain_flows()
    ((grown,), _) = drained.flows_seen[2:]
    assert (grown.counts.sent_packets, grown.new) == (2, False)


@pytest.mark.parametrize(
    ("protocol", "idle_seconds", "open_", "gone"),
    [(UDP, 64, False, False), (UDP, 66, False, True), (TCP, 66, False, False), (TCP, 901, False, True),
     (TCP, 901, True, False)],
)  # fmt: skip
def test_idle_entries_go_unless_a_connection_is_open(
    drained: Drained, protocol: int, idle_seconds: int, open_: bool, gone: bool
) -> None:
    """P9: or nobody would know who opened it."""
    key = drained.put(3, last=drained.jiffies, protocol=protocol)
    drained.open = {key} if open_ else set()
    drained.drain.drain_flows()
    drained.jiffies += idle_seconds * HZ
    drained.drain.drain_flows()
    assert (drained.kernel.maps["flows"].get(key) is None) is gone
    assert drained.evicted == ({(1, Direction.EGRESS): 1} if gone else {})


def test_a_packet_between_the_last_read_and_the_eviction_is_reported(drained: Drained) -> None:
    key = drained.put(3, last=drained.jiffies, protocol=UDP)
    drained.drain.drain_flows()
    drained.jiffies += 66 * HZ
    flows = drained.kernel.maps["flows"]
    read = flows.items()
    flows.items = lambda: read  # type: ignore[method-assign]  as it was a moment before
    drained.put(4, last=drained.jiffies, protocol=UDP)
    drained.drain.drain_flows()
    assert flows.get(key) is None
    assert [flow.counts.sent_packets for flow in drained.flows_seen[-1]] == [1]


# -- P15: unknown incoming addresses


def test_a_denial_of_an_unknown_incoming_address_waits_for_ten_seconds(drained: Drained) -> None:
    drained.drain.take(UNKNOWN)
    for after, reported in ((0.0, 0), (UNKNOWN_PEER_SECONDS - 0.1, 0), (UNKNOWN_PEER_SECONDS, 2)):
        drained.drain.release_held(1000.0 + after)
        assert len(drained.denials_seen) == reported, "two receivers, one denial"
    drained.drain.release_held(2000.0)
    assert len(drained.denials_seen) == 2, "once"


def test_one_that_the_api_explains_meanwhile_is_not_reported(drained: Drained) -> None:
    drained.drain.take(UNKNOWN)
    uid = PodUid("late")
    late = Pod(uid, "airflow", "late", Claim(FACTS.identity, ()), addresses=(PEER,))
    known = replace(HERE, cluster=replace(RANGES, pods=RANGES.pods.set(uid, late)))
    drained.drain.take(Snapshot(known, {1: FACTS}, Changes(pods=frozenset({uid}))))
    drained.drain.release_held(1000.0 + UNKNOWN_PEER_SECONDS)
    assert drained.denials_seen == []


@pytest.mark.parametrize(
    "event", [replace(UNKNOWN, direction=Direction.EGRESS), replace(UNKNOWN, reason=DropReason.NO_RULE)]
)
def test_every_other_denial_is_reported_at_once(drained: Drained, event: object) -> None:
    drained.drain.take(event)  # type: ignore[arg-type]
    assert len(drained.denials_seen) == 2


def test_when_too_many_wait_the_oldest_is_reported_early(drained: Drained) -> None:
    for _ in range(WAITING):
        drained.drain.take(UNKNOWN)
    assert drained.denials_seen == []
    drained.drain.take(UNKNOWN)
    assert len(drained.denials_seen) == 2


# -- the inbox


def test_a_flood_of_events_is_bounded_and_the_loss_counted(drained: Drained) -> None:
    for _ in range(WAITING + 7):
        drained.drain.offer(EVENT)
    assert drained.drain.inbox.qsize() == WAITING
    assert drained.drain.lost()["events_unread"] == 7


def test_the_thread_drains_once_more_at_its_end(drained: Drained) -> None:
    drained.put(1, last=drained.jiffies)

    drained.drain.inbox.put(EVENT)
    drained.drain.inbox.put(None)
    drained.drain.run()
    assert len(drained.denials_seen) == 2
    assert [len(flows) for flows in drained.flows_seen] == [1, 1], "at the end, for two receivers"


def test_at_the_end_denials_that_wait_for_the_api_are_reported(drained: Drained) -> None:
    drained.drain.inbox.put(UNKNOWN)
    drained.drain.inbox.put(None)
    drained.drain.run()
    assert len(drained.denials_seen) == 2


# -- evictions that the kernel was never told of


def shares(inserted: tuple[int, int], evicted: tuple[int, int], there: int) -> Counter[Share]:
    drained = Drained()
    drained.kernel.maps["slots"].put(U32.pack(value=1), SLOT.pack(inserted=inserted))
    drained.kernel.maps["epochs"].put(U32.pack(value=1), EPOCH.pack(epoch=5, evicted=evicted))
    for port in range(there):
        drained.put(1, last=1, port=port)
    return lost_evictions(drained.kernel.maps)


@pytest.mark.parametrize(
    ("inserted", "evicted", "there", "lost"),
    [
        ((10, 0), (7, 0), 3, {}),
        ((10, 0), (5, 0), 3, {(1, Direction.EGRESS): 2}),
        ((10, 4), (10, 1), 0, {(1, Direction.INGRESS): 3}),
        ((2, 0), ((1 << 32) - 2, 0), 1, {(1, Direction.EGRESS): 3}),
        ((10, 0), (9, 0), 3, {}),
    ],
    ids=["none", "some", "of the other share", "after the counter went round", "more there than inserted"],
)
def test_evictions_that_were_lost_are_found(
    inserted: tuple[int, int], evicted: tuple[int, int], there: int, lost: dict[Share, int]
) -> None:
    assert shares(inserted, evicted, there) == lost


def test_nothing_is_lost_where_nothing_is() -> None:
    assert lost_evictions(FakeKernel().maps) == {}


RESOLVER, STRANGER = ip_address("10.96.0.10"), ip_address("192.0.2.54")


def of_server(server: object, name: str, *addresses: str) -> RawAnswer:
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    if addresses:
        made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", *addresses))
    else:
        made.set_rcode(dns.rcode.NXDOMAIN)
    return RawAnswer(replace(EVENT, kind=EventKind.DNS_ANSWER, peer=server), made.to_wire())


def test_only_servers_of_entity_dns_name_addresses_and_fail(drained: Drained) -> None:
    known = replace(HERE, cluster=replace(CLUSTER, settings=Settings(dns=(RESOLVER,))))
    drained.drain.take(Snapshot(known, {1: FACTS}, EVERYTHING))
    for server, name in ((RESOLVER, "api.stripe.com"), (STRANGER, "evil.example")):
        drained.drain.take(of_server(server, name, str(PEER)))
        drained.drain.take(of_server(server, f"no.{name}"))
    drained.drain.take(replace(EVENT, peer=PEER))
    assert {(each.peer.kind, each.peer.name) for each in drained.denials_seen} == {(PeerKind.FQDN, "api.stripe.com")}
    assert {each.name for each in drained.lookups_seen} == {"no.api.stripe.com"}
