"""Programs for sock_diag against the kernel's own sockets: on loopback, of both families, and IPv4 in IPv6."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_network

import pytest

from agent.kernel import sock_diag
from agent.kernel.sock_filter import Ends, any_of, none_to

ELSEWHERE = ip_network("192.0.2.0/24")


@dataclass(frozen=True)
class Connection:
    """One that its listener has accepted; `ends` as the client sees them."""

    client: socket.socket
    ends: Ends

    @property
    def cookie(self) -> int:
        return int.from_bytes(self.client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")


@pytest.fixture
def three() -> Iterator[list[Connection]]:
    """IPv4, IPv6, and an IPv6 socket that talks IPv4."""
    with ExitStack() as stack:
        found = []
        for family, own, peer in (
            (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
            (socket.AF_INET6, "::1", "::1"),
            (socket.AF_INET6, "", "::ffff:127.0.0.1"),
        ):
            server = stack.enter_context(
                closing(socket.create_server((own, 0), family=family, dualstack_ipv6=not own))
            )
            client = stack.enter_context(closing(socket.socket(family)))
            client.connect((peer, server.getsockname()[1]))
            stack.enter_context(closing(server.accept()[0]))
            mapped = IPv6Address(peer if ":" in peer else f"::ffff:{peer}")
            found.append(Connection(client, Ends(client.getsockname()[1], mapped, server.getsockname()[1])))
        yield found


def cookies(only: bytes) -> set[int]:
    with closing(sock_diag.netlink()) as netlink:
        families = (socket.AF_INET, socket.AF_INET6)
        return {each.cookie for f in families for each in sock_diag.listed(netlink, f, sock_diag.OPEN, only)}


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (2, 0), (0, 1, 2)])
def test_exactly_those_between_the_wanted_ends(three: list[Connection], wanted: tuple[int, ...]) -> None:
    chosen = [three[at] for at in wanted]
    assert cookies(any_of(each.ends for each in chosen)) == {each.cookie for each in chosen}


def test_as_many_as_one_pod_may_ask_for(three: list[Connection]) -> None:
    others = [Ends(port, IPv6Address("2001:db8::1"), 443) for port in range(1, 64)]
    assert cookies(any_of([*others, three[2].ends])) == {three[2].cookie}


@pytest.mark.parametrize("change", [{"local_port": 1}, {"peer_port": 1}, {"peer": IPv6Address("::2")}])
def test_none_where_one_end_is_another(three: list[Connection], change: dict[str, object]) -> None:
    assert cookies(any_of(replace(each.ends, **change) for each in three)) == set()  # type: ignore[arg-type]


def test_none_to_a_network_leaves_out_its_mapped_addresses_too(three: list[Connection]) -> None:
    v4, v6, mapped = (each.cookie for each in three)
    loopback, one = ip_network("127.0.0.0/8"), ip_network("::1/128")
    assert {v4, v6, mapped} <= cookies(none_to([]))
    assert {v4, v6, mapped} <= cookies(none_to([ELSEWHERE]))
    assert {v4, v6, mapped} & cookies(none_to([ELSEWHERE, loopback])) == {v6}
    assert {v4, v6, mapped} & cookies(none_to([one, ELSEWHERE])) == {v4, mapped}
    assert {v4, v6, mapped} & cookies(none_to([one, loopback])) == set()


def test_a_program_that_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="sock_diag"):
        cookies(b"\1\4\2\0")
