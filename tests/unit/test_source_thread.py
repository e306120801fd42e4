"""The source's thread: everything that is there at one moment is one update; addresses of the host are settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from agent.model.changes import Changes
from agent.model.cluster import Cluster
from agent.model.identity import PodUid
from agent.node.source_thread import RESCAN_SECONDS, SourceThread
from agent.sources.host import HostAddresses
from agent.sources.update import Update
from tests.unit.fake_kernel import Clock, FakeSource

HOST = HostAddresses(own=(ip_network("192.0.2.1/32"),), dns=(ip_address("169.254.20.10"),))


@dataclass
class Addresses:
    """They change when a test says so; each change is told once."""

    new: bool = False

    def changed(self) -> bool:
        new, self.new = self.new, False
        return new

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Followed:
    source: FakeSource = field(default_factory=FakeSource)
    addresses: Addresses = field(default_factory=Addresses)
    clock: Clock = field(default_factory=Clock)
    posted: list[tuple[float, Update]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = SourceThread(
            self.source, self.addresses, lambda at, update: self.posted.append((at, update)), lambda: HOST, self.clock
        )


def update(revision: int, *pods: str) -> Update:
    return Update(Cluster(revision=revision), Changes(pods=frozenset(map(PodUid, pods))), ())


def test_nothing_new_posts_nothing() -> None:
    followed = Followed()
    followed.thread.step()
    assert followed.posted == []


def test_news_are_posted_with_the_time_of_reading() -> None:
    followed = Followed()
    followed.source.news.append(update(1, "a"))
    followed.thread.step()
    assert followed.posted == [(1000.0, update(1, "a"))]


def test_a_rescan_is_made_every_ten_seconds_only() -> None:
    followed = Followed()
    followed.source.found += [update(2, "b"), update(3, "c")]
    for at, revisions in ((9.9, []), (RESCAN_SECONDS, [2]), (19.9, [2]), (20.1, [2, 3])):
        followed.clock.now = 1000.0 + at
        followed.thread.step()
        assert [posted.snapshot.revision for _, posted in followed.posted] == revisions


def test_news_a_rescan_and_addresses_are_one_update() -> None:
    followed = Followed()
    followed.clock.now += RESCAN_SECONDS
    followed.source.news.append(update(1, "a"))
    followed.source.found.append(update(2, "b"))
    followed.source.snapshot = Cluster(revision=2)
    followed.addresses.new = True
    followed.thread.step()
    ((_, posted),) = followed.posted
    assert posted.changes == Changes(pods=frozenset({PodUid("a"), PodUid("b")}), everything_else=True)
    assert (posted.snapshot.revision, posted.snapshot.settings.host_addresses) == (3, HOST.own)
    assert posted.snapshot.settings.host_dns == HOST.dns


def test_addresses_that_are_the_same_again_post_nothing() -> None:
    followed = Followed()
    for expected in (1, 1):
        followed.addresses.new = True
        followed.thread.step()
        assert len(followed.posted) == expected


def test_it_ends_when_it_is_to_stop() -> None:
    followed, asked = Followed(), iter((False, False, True))
    followed.source.news += [update(n) for n in range(5)]
    followed.thread.run(lambda: next(asked))
    assert len(followed.posted) == 2
