"""What the kernel makes of DNS answers, real and broken ones: entries of `learned`, and the verdicts that follow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from agent.abi.structs import (
    ENDPOINT,
    FLAG_NAMES,
    LEARNED,
    LEARNED_KEY,
    LEARNED_SETS,
    LEARNED_WAYS,
    pack_folder,
    unpack_address,
)
from agent.model.identity import FIRST_IDENTITY
from agent.model.verdict import DropReason, Loss, Verdict
from agent.model.want import Lift
from agent.sync.entries import unpack_name
from lab.node import Pod, in_netns
from tests.kernel.rig import TCP, Rig
from tests.kernel.sockets import tcp

pytestmark = pytest.mark.core
SERVER, PEER, WORLD = "192.0.2.153", "198.51.100.77", "198.51.100.0/24"
Exchange = tuple[bytes, bytes]
"""A question, and what comes back."""


@pytest.fixture
def pod(rig: Rig) -> Pod:
    """May reach TCP 443 of *.example.org, and the DNS server."""
    made = rig.node.add_pod()
    _, ruleset = rig.manage(made, flags=FLAG_NAMES)
    rig.node.add_addresses(SERVER, PEER)
    rig.dns_server(ruleset, SERVER)
    rig.name_rule(ruleset, "*.example.org", 443)
    rig.rule(ruleset, WORLD, TCP, 0, verdict=Verdict.DENY, reason=DropReason.NO_RULE, lift=Lift.BY_NAME)
    return made


class Answers:
    """Gives back what it was told to, one answer a question."""

    def __init__(self, rig: Rig) -> None:
        with in_netns(rig.node.world):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((SERVER, 53))
        self._socket.settimeout(0.2)
        self.next: list[bytes] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            try:
                _, peer = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self._socket.sendto(self.next.pop(0), peer)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def server(rig: Rig) -> Iterator[Answers]:
    made = Answers(rig)
    yield made
    made.close()


def ask(questions: list[bytes]) -> int:
    """From one socket, one after the other; how many answers came."""
    came = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((SERVER, 53))
        for question in questions:
            sock.send(question)
            came += len(sock.recv(65535)) > 0
    return came


def ask_at_once(questions: list[bytes], answers: int) -> int:
    """All of them from one socket, then so many answers."""
    came = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((SERVER, 53))
        for each in questions:
            sock.send(each)
        for _ in range(answers):
            came += len(sock.recv(65535)) > 0
    return came


def learned_names(rig: Rig) -> set[str]:
    return {unpack_name(LEARNED.unpack(raw)["text"]) for _, raw in rig.maps["learned"].items()}


def exchange(rig: Rig, pod: Pod, server: Answers, exchanges: list[Exchange]) -> dict[str, set[str]]:
    """What is learned by all of them: addresses by name."""
    rig.maps["learned"].delete_all(key for key, _ in rig.maps["learned"].items())
    server.next = [answer for _, answer in exchanges]
    assert pod.run(ask, [question for question, _ in exchanges]) == len(exchanges)
    found: dict[str, set[str]] = {}
    for _, raw in rig.maps["learned"].items():
        entry = LEARNED.unpack(raw)
        found.setdefault(unpack_name(entry["text"]), set()).add(str(unpack_address(entry["address"])))
    return found


def question(name: str, kind: str = "A", number: int = 7) -> dns.message.Message:
    return dns.message.make_query(name, kind, id=number)


def answer(asked: dns.message.Message, *records: tuple[str, str, str]) -> bytes:
    """Records: name, type, text."""
    made = dns.message.make_response(asked)
    for name, kind, text in records:
        made.answer.append(dns.rrset.from_text(name, 60, "IN", kind, text))
    return made.to_wire()


def test_a_learned_address_is_reached_at_the_rule_s_port_only(rig: Rig, pod: Pod, server: Answers) -> None:
    for port in (443, 8443):
        rig.node.serve(PEER, port)
    asked = question("api.example.org")
    assert pod.run(tcp, PEER, 443) in ("EACCES", "EPERM")
    learned = exchange(rig, pod, server, [(asked.to_wire(), answer(asked, ("api.example.org.", "A", PEER)))])
    assert learned == {"api.example.org": {PEER}}
    assert pod.run(tcp, PEER, 443) == "ok"
    assert pod.run(tcp, PEER, 8443) in ("EACCES", "EPERM")


@pytest.mark.parametrize(
    "name",
    [
        "a.example.org", "A.b.C.d.ExAmPlE.oRg", "_x-1.example.org", f"{'a' * 63}.example.org",
        ".".join(["b" * 49] * 4 + ["c" * 32, "example.org"]), ".".join("abcdefghijklmnopqrstuvwxyz") + ".example.org",
    ],
)  # fmt: skip
def test_names_of_every_length_are_learned_in_lower_case(rig: Rig, pod: Pod, server: Answers, name: str) -> None:
    asked = question(name)
    wire = answer(asked, (f"{name}.", "A", PEER))
    assert exchange(rig, pod, server, [(asked.to_wire(), wire)]) == {name.lower(): {PEER}}


def test_what_no_rule_is_on_is_not_learned(rig: Rig, pod: Pod, server: Answers) -> None:
    """The suffix itself, a name that only ends alike, and labels with a zero or with what looks like a length."""
    asked = [question(name) for name in ("example.org", "badexample.org", "other.net", r"a\000example.org", "org")]
    asked.append(question(r"x\007example\003org.net"))
    wires = [(each.to_wire(), answer(each, (each.question[0].name.to_text(), "A", PEER))) for each in asked]
    assert exchange(rig, pod, server, wires) == {}


def test_addresses_of_the_answer_section_are_learned_and_no_others(rig: Rig, pod: Pod, server: Answers) -> None:
    asked, both = question("a.example.org"), question("b.example.org", "AAAA")
    made = dns.message.make_response(asked)
    made.answer.append(dns.rrset.from_text("a.example.org.", 60, "IN", "CNAME", "b.other.net."))
    made.answer.append(dns.rrset.from_text("b.other.net.", 60, "IN", "TXT", '"198.51.100.9"'))
    made.answer.append(dns.rrset.from_text("b.other.net.", 60, "IN", "A", "198.51.100.1", "198.51.100.2"))
    made.authority.append(dns.rrset.from_text("other.net.", 60, "IN", "A", "198.51.100.3"))
    made.additional.append(dns.rrset.from_text("ns.other.net.", 60, "IN", "A", "198.51.100.4"))
    six = answer(both, ("b.example.org.", "AAAA", "2001:db8::1"))
    failed = dns.message.make_response(question("c.example.org"))
    failed.answer.append(dns.rrset.from_text("c.example.org.", 60, "IN", "A", "198.51.100.5"))
    failed.set_rcode(dns.rcode.NXDOMAIN)
    exchanges = [
        (asked.to_wire(), made.to_wire()), (both.to_wire(), six),
        (question("c.example.org").to_wire(), failed.to_wire()),
    ]  # fmt: skip
    learned = exchange(rig, pod, server, exchanges)
    assert learned == {"a.example.org": {"198.51.100.1", "198.51.100.2"}, "b.example.org": {"2001:db8::1"}}


def test_records_of_other_classes_are_no_addresses(rig: Rig, pod: Pod, server: Answers) -> None:
    """CH, HS, NONE, ANY and what has no name (RFC 1035 section 3.2.4)."""
    exchanges = []
    for i, number in enumerate((0, 2, 3, 4, 77, 254, 255, 65535)):
        asked = question(f"c{i}.example.org", number=i)
        wire = bytearray(answer(asked, (f"c{i}.example.org.", "A", PEER)))
        at = len(wire) - 4 - 2 - 4 - 2
        assert wire[at : at + 2] == b"\0\1", "the record's class"
        wire[at : at + 2] = number.to_bytes(2, "big")
        exchanges.append((asked.to_wire(), bytes(wire)))
    assert exchange(rig, pod, server, exchanges) == {}


def test_an_answer_teaches_once_and_only_to_its_question(rig: Rig, pod: Pod, server: Answers) -> None:
    """Another id, another name, the same answer twice."""
    asked, other = question("a.example.org", number=1), question("b.example.org", number=1)
    right = answer(asked, ("a.example.org.", "A", PEER))
    lost = rig.losses()[Loss.UNASKED_ANSWER]
    wrong_id = bytes([right[0], right[1] ^ 1]) + right[2:]
    assert exchange(rig, pod, server, [(asked.to_wire(), wrong_id), (other.to_wire(), wrong_id)]) == {}
    assert rig.losses()[Loss.UNASKED_ANSWER] == lost + 2
    assert exchange(rig, pod, server, [(other.to_wire(), right), (question("c.net").to_wire(), right)]) == {}
    assert exchange(rig, pod, server, [(asked.to_wire(), right)]) == {"a.example.org": {PEER}}


def test_a_question_that_is_asked_again_makes_no_other_one_be_forgotten(rig: Rig, pod: Pod, server: Answers) -> None:
    """Resolvers ask again by the same socket with the same id."""
    asked = [question(f"q{i}.example.org", number=i) for i in range(4)]
    wires = [answer(each, (each.question[0].name.to_text(), "A", f"198.51.100.{i}")) for i, each in enumerate(asked)]
    rig.maps["learned"].delete_all(key for key, _ in rig.maps["learned"].items())
    questions = [asked[i].to_wire() for i in (0, 1, 1, 2, 3)]
    server.next = [answer(question("c.net")), wires[1], wires[1], wires[2], wires[3]]
    lost = rig.losses()[Loss.UNASKED_ANSWER]
    assert pod.run(ask_at_once, questions, 5) == 5
    assert learned_names(rig) == {f"q{i}.example.org" for i in (1, 2, 3)}
    assert rig.losses()[Loss.UNASKED_ANSWER] - lost <= 2, "what nobody asked, and one that is answered already"


def test_an_open_question_outlives_later_ones_that_are_answered(rig: Rig, pod: Pod, server: Answers) -> None:
    slow = question("slow.example.org", number=9)
    later = [question(f"l{i}.example.org", number=100 + i) for i in range(100)]
    of_later = [answer(each, (each.question[0].name.to_text(), "A", "198.51.100.3")) for each in later]
    of_slow = answer(slow, ("slow.example.org.", "A", PEER))
    rig.maps["learned"].delete_all(key for key, _ in rig.maps["learned"].items())
    questions = [slow.to_wire(), *(each.to_wire() for each in later)]
    server.next = [answer(question("c.net")), *of_later, of_slow]
    assert pod.run(ask, [*questions, question("d.net").to_wire()]) == 102
    assert "slow.example.org" in learned_names(rig)


def test_what_is_learned_of_one_identity_stays_in_its_share(rig: Rig, pod: Pod, server: Answers) -> None:
    exchanges = []
    for i in range(40):
        asked = question(f"n{i}.example.org", number=i)
        records = [(f"n{i}.example.org.", "A", f"10.{i}.{j // 250}.{j % 250}") for j in range(60)]
        exchanges.append((asked.to_wire(), answer(asked, *records)))
    lost = rig.losses()[Loss.LEARNED_SHARE]
    learned = exchange(rig, pod, server, exchanges)
    assert 400 < sum(map(len, learned.values())) <= LEARNED_SETS * LEARNED_WAYS
    assert rig.losses()[Loss.LEARNED_SHARE] - lost >= 40 * 60 - LEARNED_SETS * LEARNED_WAYS
    keys = [LEARNED_KEY.unpack(key) for key, _ in rig.maps["learned"].items()]
    assert len({key["identity"] for key in keys}) == 1


def test_the_number_that_identities_share_learns_nothing(rig: Rig, pod: Pod, server: Answers) -> None:
    """Identities beyond the last number of their own have the same one: what one is answered is not the others'."""
    for folder in (pod.folder, pod.container):
        key = pack_folder(folder.stat().st_ino)
        value = ENDPOINT.unpack(rig.maps["endpoints"].get(key) or b"")
        rig.maps["endpoints"].put(key, ENDPOINT.pack(**{**value, "identity": FIRST_IDENTITY}))
    asked = question("a.example.org")
    assert exchange(rig, pod, server, [(asked.to_wire(), answer(asked, ("a.example.org.", "A", PEER)))]) == {}


def mutated(r: Random, wire: bytes) -> bytes:
    """Bytes changed, cut, put in or taken out; the id and the flags stay."""
    out = bytearray(wire)
    for _ in range(r.randint(1, 4)):
        at = r.randrange(4, max(5, len(out)))
        kind = r.randrange(4)
        if kind == 0:
            out[at] = r.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF, r.randrange(256)))
        elif kind == 1:
            del out[at : at + r.randint(1, 8)]
        elif kind == 2:
            out[at:at] = r.randbytes(r.randint(1, 8))
        else:
            out = out[: max(13, at)] or out
    return bytes(out)


def test_broken_answers_teach_nothing_that_is_not_in_them(rig: Rig, pod: Pod, server: Answers) -> None:
    """Random names, records and breakage: whole answers are learned whole; of others at most what stands there."""
    r = Random(11)
    for _ in range(6):
        exchanges, whole, bytes_of = [], dict[str, set[str]](), dict[str, bytes]()
        for i in range(40):
            name = ".".join("".join(r.choices("abcxyz-_0A", k=r.randint(1, 20))) for _ in range(r.randint(1, 5)))
            name = f"x{i}.{name}.example.org"
            asked = question(name, number=i)
            kinds = [r.choice(("A", "AAAA", "TXT", "CNAME")) for _ in range(r.randint(0, 4))]
            texts = {
                "A": lambda: str(ip_address(r.getrandbits(32))), "AAAA": lambda: str(ip_address(r.getrandbits(128))),
                "TXT": lambda: '"text"', "CNAME": lambda: "c.example.net.",
            }  # fmt: skip
            records = [(f"{name}.", kind, texts[kind]()) for kind in kinds]
            wire = answer(asked, *records)
            if r.random() < 0.3:
                addresses = {str(ip_address(text)) for _, kind, text in records if kind in ("A", "AAAA")}
                whole |= {name.lower(): addresses} if addresses else {}
            else:
                wire = mutated(r, wire)
            bytes_of[name.lower()] = wire
            exchanges.append((asked.to_wire(), wire))
        learned = exchange(rig, pod, server, exchanges)
        for name, addresses in whole.items():
            assert learned.get(name) == addresses
        for name, addresses in learned.items():
            assert name in bytes_of, "only what was asked for"
            for address in addresses:
                assert ip_address(address).packed in bytes_of[name]
