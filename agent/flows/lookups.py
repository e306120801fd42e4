"""Names that endpoints asked DNS servers for, so that people see `api.stripe.com` and not an address.

For eyes only: no verdict follows from them. A message may come from anywhere, so only those of servers in entity
`dns` count (P12). Addresses belong to the name of the question, through its CNAMEs (RFC 1034 section 3.6.2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA

from agent.flows.pacing import Pace
from agent.model.cluster import Address

MOST_OF_ENDPOINT = 1024
"""Addresses whose names are kept for an endpoint; the one that was used longest ago goes."""
MOST_ENDPOINTS = 8192
_FOLLOWED = (dns.rdatatype.A, dns.rdatatype.AAAA)
_WITH_ADDRESS = dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """The name that was asked for, in lower case without the last dot; the type of record; the rcode of RFC 6895."""

    name: str
    record: str
    rcode: str
    addresses: tuple[Address, ...] = ()

    @property
    def failed(self) -> bool:
        """NXDOMAIN, SERVFAIL and the like; a name without addresses of this kind is no failure."""
        return self.rcode != "NOERROR"


def read_answer(message: bytes) -> DnsAnswer | None:
    """What a server answered; None of what is no answer about a name's addresses, or cannot be read.

    A message that was cut has the addresses that are whole in it.
    """
    try:
        answer = dns.message.from_wire(message, continue_on_error=True, ignore_trailing=True)
        if not isinstance(answer, dns.message.QueryMessage) or len(answer.question) != 1:
            return None
        question = answer.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()  # what is no plain sign is `\\DDD` there
        if question.rdtype not in _FOLLOWED or question.rdclass != dns.rdataclass.IN:
            return None
        record = dns.rdatatype.to_text(question.rdtype)
        if answer.rcode() != dns.rcode.NOERROR:
            return DnsAnswer(name, record, dns.rcode.to_text(answer.rcode()))
        found = answer.resolve_chaining().answer
    except (dns.exception.DNSException, ValueError, IndexError):
        return None
    return DnsAnswer(
        name,
        record,
        "NOERROR",
        tuple(ip_address(each.address) for each in found or () if isinstance(each, _WITH_ADDRESS)),
    )


Owner = tuple[int, int]
"""(slot, identity number): a slot is given to another pod later, which asked for nothing yet."""


@dataclass(slots=True)
class AskedNames:
    """By endpoint and address the name that it asked for last.

    Bounded by endpoint and in all: who asks for many names forgets his own. `skipped`: answers that were not read
    for want of time.
    """

    clock: InitVar[Callable[[], float]]
    _names: OrderedDict[Owner, OrderedDict[Address, str]] = field(default_factory=OrderedDict)
    _pace: Pace = field(init=False)

    def __post_init__(self, clock: Callable[[], float]) -> None:
        self._pace = Pace(clock, rate=0.1, most=0.2, own_rate=0.02, own_most=0.05)

    @property
    def skipped(self) -> int:
        return self._pace.skipped

    def learn(self, owner: Owner, namespace: str, message: bytes) -> DnsAnswer | None:
        """Take in an answer to an endpoint of a namespace, and return what is in it."""
        begun = self._pace.begins(owner[0], namespace)
        if begun is None:
            return None
        try:
            answer = read_answer(message)
            if answer is not None:
                for address in answer.addresses:
                    self._put(owner, address, answer.name)
        finally:
            self._pace.ends(begun)
        return answer

    def note(self, owner: Owner, address: Address, name: str) -> None:
        """The endpoint has begun a TLS connection to this address for this server."""
        self._put(owner, address, name)

    def name(self, owner: Owner, address: Address) -> str:
        """The name, or ""."""
        names = self._names.get(owner)
        if names is None or address not in names:
            return ""
        names.move_to_end(address)
        return names[address]

    def _put(self, owner: Owner, address: Address, name: str) -> None:
        names = self._names.setdefault(owner, OrderedDict())
        self._names.move_to_end(owner)
        names[address] = name
        names.move_to_end(address)
        if len(names) > MOST_OF_ENDPOINT:
            names.popitem(last=False)
        if len(self._names) > MOST_ENDPOINTS:
            self._names.popitem(last=False)
