"""A DNS server in the world whose answers a test decides, and lookups from a pod."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset

from lab.node import ScratchNode, in_netns

Reply = Callable[[dns.message.Message], "bytes | None"]


class Resolver:
    """Answers from `zone`: addresses by name, in turn, `most` of them at a time; names in lower case.

    `reply` in place of that: bytes that go back, None for silence.
    """

    def __init__(self, node: ScratchNode, address: str, ttl: int = 60) -> None:
        self.zone: dict[str, list[str]] = {}
        self.aliases: dict[str, str] = {}
        self.reply: Reply = self.answer
        self.ttl, self.most, self.asked = ttl, 64, 0
        node.add_addresses(address)
        with in_netns(node.world):
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        self._socket.settimeout(0.1)
        with in_netns(node.world):
            self._listener = socket.create_server(
                (address, 53), family=socket.AF_INET6 if ":" in address else socket.AF_INET
            )
        self._listener.settimeout(0.1)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._loop, self._streams)]
        for thread in self._threads:
            thread.start()

    def answer(self, query: dns.message.Message) -> bytes:
        """As a recursive server would: the whole chain of aliases, the question as it was written."""
        made = dns.message.make_response(query)
        made.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        while (alias := self.aliases.get(name.lower())) is not None:
            made.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", "CNAME", f"{alias}."))
            name = alias
        version = ":" if question.rdtype == dns.rdatatype.AAAA else "."
        known = [each for each in self.zone.get(name.lower(), []) if version in each]
        start = self.asked * self.most % len(known) if len(known) > self.most else 0
        found = (known * 2)[start : start + self.most][: len(known)]
        self.asked += 1
        if found:
            kind = dns.rdatatype.to_text(question.rdtype)
            made.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", kind, *found))
        return made.to_wire(max_size=65535)

    def send(self, message: bytes, to: tuple[str, int]) -> None:
        self._socket.sendto(message, to)

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._listener.close()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            with suppress(TimeoutError, OSError):
                data, peer = self._socket.recvfrom(4096)
                reply = self.reply(dns.message.from_wire(data))
                if reply is not None:
                    self._socket.sendto(reply, peer)

    def _streams(self) -> None:
        """Every message of a connection in order, each answer in a segment of its own (RFC 7766)."""
        while not self._stopped.is_set():
            with suppress(TimeoutError, OSError, EOFError), self._listener.accept()[0] as connection:
                connection.settimeout(1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    reply = self.reply(dns.query.receive_tcp(connection)[0])
                    if reply is not None:
                        connection.sendall(len(reply).to_bytes(2, "big") + reply)


def look_up(server: str, name: str, kind: str = "A", **more: Any) -> list[str]:
    """Addresses in the answer, as a stub resolver in a pod gets them; nothing where none comes."""
    query = dns.message.make_query(name, kind, **more)
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((server, 53))
        sock.send(query.to_wire())
        try:
            answer = dns.message.from_wire(sock.recv(65535))
        except TimeoutError:
            return []
    return addresses_in(answer, kind)


def look_up_by_stream(server: str, name: str, kind: str = "A") -> list[str]:
    """As a stub resolver does after a cut answer."""
    return addresses_in(dns.query.tcp(dns.message.make_query(name, kind), server, timeout=5), kind)


def look_up_two_by_stream(server: str, names: tuple[str, str], *, pause: float = 0.0) -> list[list[str]]:
    """Both questions on one connection, at once or one after the other."""
    with socket.create_connection((server, 53), timeout=5) as sock:
        wires = [dns.message.make_query(name, "A").to_wire() for name in names]
        framed = [len(wire).to_bytes(2, "big") + wire for wire in wires]
        if not pause:
            sock.sendall(b"".join(framed))
            return [addresses_in(dns.query.receive_tcp(sock)[0], "A") for _ in names]
        found = []
        for each in framed:
            sock.sendall(each)
            found.append(addresses_in(dns.query.receive_tcp(sock)[0], "A"))
            time.sleep(pause)
        return found


def addresses_in(answer: dns.message.Message, kind: str) -> list[str]:
    wanted = dns.rdatatype.from_text(kind)
    return [item.to_text() for rrset in answer.answer if rrset.rdtype == wanted for item in rrset]
