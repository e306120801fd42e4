"""Enumerations that cross the kernel boundary. bpf/types.h holds the same numbers; tests/layout compares them.

All of them are append-only: logs and pinned maps keep these numbers.
"""

from __future__ import annotations

from enum import IntEnum


class Direction(IntEnum):
    """Who opened the flow, seen from the endpoint (semantics P10)."""

    EGRESS = 0
    INGRESS = 1


class Verdict(IntEnum):
    """What happens to a packet or a connect(). Zero is a denial, so that a zeroed value denies."""

    DENY = 0
    ALLOW = 1
    AUDIT = 2  # passes, and is reported as what would be denied (P3)


class DropReason(IntEnum):
    """Why something was denied, or would be (Verdict.AUDIT)."""

    NONE = 0
    NO_RULE = 1  # the endpoint is isolated and nothing allows it (P2)
    DENY_RULE = 2  # a deny rule matched (P2)
    UNKNOWN_PEER = 3  # inside the pod or service ranges, but nobody known (P15)
    PENDING = 4  # the endpoint's identity is not known yet (L1)
    QUARANTINED = 5  # the claim contradicts a binding (I5)
    FRAGMENT = 6  # a fragment reached a hook
    SOURCE_ROUTE = 7  # IPv4 LSRR/SSRR or an IPv6 routing header
    INVALID_PACKET = 8  # headers that cannot be parsed
    RAW_SOCKET = 9  # socket(SOCK_RAW) without `rawSockets: true`
    NOT_A_REPLY = 10  # a datagram that only looks like an answer (P9)
    AGENT_GONE = 11  # unknown pod, agent dead, --on-agent-loss=deny (L6)
    NOT_READY = 12  # the slow path is missing: managed endpoints fail closed
    SOCKET_FAMILY = 13  # socket() of a family whose traffic no hook judges (S6)
    LOOPBACK = 14  # 127.0.0.0/8 or ::1 on its way out by another device than lo (P7)
    FOREIGN_SOURCE = 15  # an IPv6 source address that is not the pod's
    NO_TLS = 16  # a rule with `tls` allows the flow, and what it sent first is no ClientHello
    NO_SERVER_NAME = 17  # a hello without a server name, or with one that is no DNS name
    SERVER_NAME = 18  # a hello for a server that no rule names
    ENCRYPTED_HELLO = 19  # a hello with encrypted_client_hello: its true server name is hidden
    HELLO_TOO_LONG = 20  # a hello that does not fit into what TCP sends at once
    BROKEN_HELLO = 21  # a hello that two readers may understand differently
    HELLO_UNSEEN = 22  # the connection is older than the rule: nobody has seen its hello
    NO_HTTP = 23  # a rule with `http` allows the flow, and what it sent is no request line of HTTP/1
    REQUEST = 24  # no rule allows a request's method, host and path
    REQUEST_TOO_LONG = 25  # a head, or a part of it, that is longer than what can be judged
    BARE_LINE_END = 26  # CR or LF alone in a head
    FOLDED_HEADER = 27  # a header line that goes on in the next one
    SPACE_IN_HEADER = 28  # a space in, or behind, the name of a header
    BAD_HEADER = 29  # bytes that no header may have
    REQUEST_LENGTH = 30  # a body whose end two readers may see at different places
    BAD_HOST = 31  # no Host, two, or one that is no name
    HOST_DISAGREES = 32  # Host is not the host of the request's target
    UPGRADE = 33  # another protocol is asked for
    DOT_SEGMENT = 34  # a path with segments `.`, `..`, or empty ones
    BAD_ESCAPE = 35  # a path with escapes (%..) that two readers may resolve differently
    HTTP2 = 36  # HTTP/2 without TLS
    BAD_CHUNK = 37  # chunked coding that cannot be read
    REQUEST_UNSEEN = 38  # the connection is older than the rule: nobody has seen what it sent
    SHARED_PAGES = (
        39  # a head in pages that the task may change after they were judged: sendfile, splice, MSG_ZEROCOPY
    )
    TUNNEL_EARLY = 40  # bytes for a tunnel that the proxy has not opened (yet)
    BROKEN_REQUEST = 41  # else: two readers may understand it differently
    START_TLS = 42  # a hello that begins at once, or behind a StartTLS, where its rule asks for the other
    UNKNOWN = 255  # a newer release's number, read by this one after a rollback

    @classmethod
    def _missing_(cls, _: object) -> DropReason:
        return cls.UNKNOWN


OF_HELLOS = frozenset(
    {
        DropReason.NO_TLS,
        DropReason.NO_SERVER_NAME,
        DropReason.SERVER_NAME,
        DropReason.ENCRYPTED_HELLO,
        DropReason.HELLO_TOO_LONG,
        DropReason.BROKEN_HELLO,
        DropReason.HELLO_UNSEEN,
        DropReason.START_TLS,
    }
)
OF_REQUESTS = frozenset(each for each in DropReason if DropReason.NO_HTTP <= each <= DropReason.BROKEN_REQUEST)


class EndpointState(IntEnum):
    """Life of an endpoint (L1)."""

    PENDING = 0
    MANAGED = 1
    UNMANAGED = 2
    QUARANTINED = 3

    @property
    def has_rules(self) -> bool:
        """Is it judged by policies, or by its quarantine?"""
        return self in (EndpointState.MANAGED, EndpointState.QUARANTINED)


class Hook(IntEnum):
    """Which program reported an event."""

    EGRESS = 0
    INGRESS = 1
    CONNECT = 2
    SOCK_CREATE = 3
    SOCKET_CREATE = 4
    SENDMSG = 5
    SOCKOPS = 6
    UNKNOWN = 255  # as above

    @classmethod
    def _missing_(cls, _: object) -> Hook:
        return cls.UNKNOWN

    @property
    def has_peer(self) -> bool:
        """False where only a socket was asked for."""
        return self not in (Hook.SOCK_CREATE, Hook.SOCKET_CREATE)


class EventKind(IntEnum):
    """What a record of the ring buffer reports."""

    DENIED = 1
    AUDITED = 2
    PENDING = 3
    FOREIGN_SOCKET = 4  # a connection over a socket that another cgroup's process made (L7)
    DNS_ANSWER = 5  # what a DNS server answered
    HELLO = 6  # for which server a TLS connection was begun
    OUTCOME = 7  # what became of a connection that the endpoint opened


class Cause(IntEnum):
    """How a connection that was let pass came to its end."""

    NONE = 0  # as connections do
    REFUSED = 1  # RST in answer to our SYN
    UNREACHABLE = 2  # an ICMP error in answer to our SYN, or no neighbour
    SYN_TIMEOUT = 3  # no answer to any SYN
    RESET = 4  # RST later
    CLOSED_EARLY = 5  # the peer closed it and had not sent a byte
    STALLED = 6  # no answer any more, or not reachable any more
    TLS_ALERT = 7  # the answer began with an alert
    HTTP_STATUS = 8  # the answer began with 401, 403, 407, 429 or 5xx
    UNKNOWN = 255  # as above

    @classmethod
    def _missing_(cls, _: object) -> Cause:
        return cls.UNKNOWN


class Loss(IntEnum):
    """What was lost or left uncounted, and why; every one is a metric (R2)."""

    RING_FULL = 0  # an event found the ring buffer full
    EVENT_RATE = 1  # an event was suppressed by the endpoint's token bucket
    FLOWS_FULL = 2  # a packet judged without an entry in `flows`: the map is full
    FLOWS_QUOTA = 3  # the same: the endpoint's share is used up
    FLUSH_MISS = 4  # packets counted in a promoted socket whose flow was evicted
    DENIALS_FULL = 5  # a denial without an entry in `denials`
    PENDING_FULL = 6  # a pending cgroup without an entry in `pending`
    TAIL_MISSING = 7  # a tail call found no program
    AGENT_GONE = 8  # a packet of an unknown pod that passed because the agent is gone (L6)
    IMPOSSIBLE = 9  # a lookup failed that cannot fail: a defect, please report it
    ANSWER_RATE = 10  # a DNS answer was not reported: the endpoint's share of reports is used up
    LEARNED_FULL = 11  # an address was not learned for a name: the map is full
    LEARNED_SHARE = 12  # a learned address gave way to a newer one of the same identity before its time
    UNASKED_ANSWER = 13  # a DNS answer was not learned: its socket has not asked for it
    OUTCOME_RATE = 14  # that a connection failed was not reported: the endpoint's share is used up
