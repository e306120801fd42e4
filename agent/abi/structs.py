"""The structs of bpf/types.h, and the maps that hold them (bpf/maps.c)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.abi.layout import Layout, array, be16, nested, raw, u8, u16, u32, u64

ABI_VERSION = 6

IDENTITY_SLOTS = 4096
ENDPOINT_SLOTS = 4096
NEARBY_SLOTS = 65536
CREATOR_SLOTS = 65536
POD_LEVELS = 2
ANSWER_SLOTS = 32
DNS_BYTES = 1024
COMM_BYTES = 16

OPENED_BY_US = 1
OPENED_BY_PEER = 2

NAME_BYTES = 256
LEARNED_SETS = 64
LEARNED_WAYS = 8
QUESTIONS = 64

ADDRESS_OF_HOST = 1
ADDRESS_OF_DNS = 2

FLAG_HOST_NETWORK = 1
FLAG_RAW_SOCKETS = 2
FLAG_AUDIT_SOCKETS = 4
FLAG_NAMES = 8
FLAG_HELLOS = 16

RULE_AUDITS_HELLO = 1
SERVER_BYTES = 252
TEXT_BYTES = 2048
TEXT_ROOM = 256
BLOCK_BYTES = 128
GRAMMAR_STATES = 208
CARRIES_TUNNEL = 3
CARRIES_TLS = 4

ADDRESS = raw(16, align=4)

CONFIG = Layout(
    "config",
    heartbeat_ns=u64,
    loss_grace_ns=u64,
    loss_denies=u32,
    pod_level=array(u32, POD_LEVELS),
    reply_ticks=u32,
    flush_ticks=u32,
    syn_ticks=u32,
    syn_tries=u32,
    event_rate=u32,
    event_burst=u32,
    flow_quota=u32,
    hz=u32,
    name_least_s=u32,
    name_most_s=u32,
    pad=u32,
)
RULE = Layout("rule", rule=u32, verdict=u8, reason=u8, lift=u8, flags=u8, hellos=u32, requests=u32)
FOLDER = Layout("folder", length=u32, cgroup_id=raw(8, align=4))
ENDPOINT = Layout(
    "endpoint",
    identity=u32,
    ruleset=u32,
    slot=u32,
    state=u8,
    flags=u8,
    pad=raw(2),
    defaults=nested(RULE, 2),
    own=raw(32, align=4),
)
EPOCH = Layout("epoch", epoch=u32, evicted=array(u32, 2), pad=u32)
NEARBY = Layout("nearby", cgroup_id=u64, epoch=u32, state=u8, flags=u8, pad=raw(2))
BUCKET = Layout("bucket", tokens=u32, refilled=u32)
SLOT = Layout("slot", inserted=array(u32, 2), tokens=u32, refilled=u32)
FLOW_KEY = Layout(
    "flow_key",
    cgroup_id=u64,
    peer=ADDRESS,
    service_port=be16,
    protocol=u8,
    direction=u8,
    client_port=be16,
    pad=raw(2),
)
FLOW = Layout(
    "flow",
    stamp=u64,
    slot=u32,
    identity=u32,
    rule=u32,
    last=u32,
    first=u32,
    local=u32,
    verdict=u8,
    reason=u8,
    inspect=u8,
    pad=raw(5),
    sent_packets=u64,
    sent_bytes=u64,
    received_packets=u64,
    received_bytes=u64,
    connections=u64,
    network=u64,
)
ANSWER = Layout("answer", key=nested(FLOW_KEY), stamp=u64, network=u64, last=u32, pad=u32)
PROMOTED = Layout(
    "promoted",
    slot=u32,
    epoch=u32,
    identity=u32,
    last=u32,
    flush_at=u32,
    waits=u8,
    opened=u8,
    remote_port=be16,
    local=u32,
    owner=u32,
    key=nested(FLOW_KEY),
    sent_packets=u64,
    sent_bytes=u64,
    received_packets=u64,
    received_bytes=u64,
    network=u64,
    greeted=u32,
    pad=u32,
)
PREFIX = Layout("prefix", length=u32, address=ADDRESS)
CLASSES = Layout("classes", peer=u32, base=u32, flags=u32)
DNS_NAME = Layout("dns_name", length=u32, bytes=raw(NAME_BYTES))
SERVER_KEY = Layout("server_key", length=u32, ruleset=u32, bytes=raw(SERVER_BYTES))
SERVERS = Layout(
    "servers", named=u32, nameless=u32, encrypted=u32, hosts=u32, start_tls=u32,
    tunnel_any=u32, tunnel_named=u32, tunnel_nameless=u32, tunnel_encrypted=u32,
)  # fmt: skip
PARTS = Layout("parts", bits=u32, from_behind=u32)
STEP = Layout("step", state=u8, act=u8, value=u8, pad=u8)
GRAMMAR = Layout("grammar", steps=array(u32, GRAMMAR_STATES * 256))
GREETING = Layout("greeting", key=nested(SERVER_KEY), seen=u8, fault=u8, encrypted=u8, start_tls=u8)
HELLO = Layout("hello", bits=u32, fits=u32, requests=u32, asked=u32, rule=u32, failed=u8, pad=raw(3))
REQUEST = Layout(
    "request",
    left=u64,
    number=array(u64, 4),
    next=u64,
    start=u64,
    epoch=u32,
    made=u32,
    bits=u32,
    tried=u32,
    common=u32,
    used=array(u32, 4),
    count=array(u32, 6),
    carries=u8,
    fault=u8,
    state=u8,
    in_head=u8,
    cleared=u8,
    act=u8,
    whole=u8,
    pad=u8,
    taken=u32,
    room=array(u16, 4),
    bytes=u32,
    text=raw(TEXT_BYTES),
    block=raw(BLOCK_BYTES + 8),
    key=nested(SERVER_KEY),
    hello=nested(HELLO),
    best=nested(RULE),
)
LEARNED_KEY = Layout("learned_key", identity=u32, index=u32)
LEARNED = Layout("learned", address=ADDRESS, seal=u64, digest=u64, expires=u64, text=nested(DNS_NAME), pad=u32)
ASKED = Layout("questions", next=u32, pad=u32, seal=array(u64, QUESTIONS))
RULE_KEY = Layout(
    "rule_key", length=u32, ruleset=u32, peer_class=u32, direction=u8, pad=raw(3), port_index=raw(4, align=4)
)
IDENTITY_COUNTS = Layout(
    "identity_counts",
    sent_packets=u64,
    sent_bytes=u64,
    received_packets=u64,
    received_bytes=u64,
    connections=u64,
    audited=u64,
    denied_packets=u64,
    denied_bytes=u64,
)
IDENTITY_TOTALS = Layout("identity_totals", by=nested(IDENTITY_COUNTS, 2))
DENIAL_KEY = Layout("denial_key", slot=u32, rule=u32, identity=u32, reason=u8, direction=u8, verdict=u8, pad=u8)
DENIAL = Layout("denial", packets=u64, bytes=u64)
CREATOR = Layout("creator", cookie=u64, cgroup_id=u64, network=u64, seal=u64)
EVENT = Layout(
    "event",
    time_ns=u64,
    cgroup_id=u64,
    task_cgroup_id=u64,
    ancestors=array(u64, POD_LEVELS),
    socket_cookie=u64,
    peer=ADDRESS,
    service_port=be16,
    client_port=be16,
    protocol=u8,
    direction=u8,
    verdict=u8,
    reason=u8,
    rule=u32,
    identity=u32,
    slot=u32,
    pid=u32,
    length=u32,
    kind=u8,
    hook=u8,
    family=u8,
    pad=raw(1),
)
HELLO_EVENT = Layout("hello_event", event=nested(EVENT), greeting=nested(GREETING))
REQUEST_EVENT = Layout(
    "request_event",
    event=nested(EVENT),
    method=raw(16),
    host=raw(TEXT_ROOM),
    path=raw(TEXT_ROOM),
    port=u16,
    pad=raw(6),
)
DNS_ANSWER = Layout("dns_answer", event=nested(EVENT), kept=u16, pad=raw(6), message=raw(DNS_BYTES))
CALL = Layout("call", event=nested(EVENT), comm=raw(COMM_BYTES))
ATTEMPT = Layout(
    "attempt",
    began_ns=u64,
    established_ns=u64,
    answered_ns=u64,
    cgroup_id=u64,
    peer=ADDRESS,
    service_port=be16,
    pad=raw(2),
    rule=u32,
    identity=u32,
    slot=u32,
    pid=u32,
    reserved=u32,
    comm=raw(COMM_BYTES),
)
OUTCOME = Layout(
    "outcome",
    event=nested(EVENT),
    comm=raw(COMM_BYTES),
    began_ns=u64,
    established_ns=u64,
    answered_ns=u64,
    rtt_us=u32,
    retransmits=u32,
    detail=u16,
    cause=u8,
    pad=raw(5),
)

STRUCTS = (
    CONFIG, RULE, FOLDER, ENDPOINT, EPOCH, NEARBY, BUCKET, SLOT, FLOW_KEY, FLOW, ANSWER, PROMOTED, PREFIX, CLASSES,
    DNS_NAME, LEARNED_KEY, LEARNED, ASKED, RULE_KEY, IDENTITY_COUNTS, IDENTITY_TOTALS, DENIAL_KEY, DENIAL,
    CREATOR, EVENT, DNS_ANSWER, CALL, ATTEMPT, OUTCOME, SERVER_KEY, SERVERS, GREETING, HELLO_EVENT,
    PARTS, STEP, GRAMMAR, HELLO, REQUEST, REQUEST_EVENT,
)  # fmt: skip

U32 = Layout("u32", value=u32)
U64 = Layout("u64", value=u64)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as bpf/maps.c declares it. `entries` is its default size; `resizable` ones are an agent's setting.

    `kernel_only`: nobody can copy it, so that a release uses it as it is or begins with an empty one.
    """

    key: Layout
    value: Layout
    entries: int
    resizable: bool = False
    per_cpu: bool = False
    lpm: bool = False
    kernel_only: bool = False

    @property
    def fixed_entries(self) -> int:
        """Of a map whose size no setting changes; else 0."""
        return 0 if self.resizable or self.kernel_only else self.entries


EVENTS_BYTES = 524288
MAPS: dict[str, MapSpec] = {
    "config": MapSpec(U32, CONFIG, 1),
    "endpoints": MapSpec(FOLDER, ENDPOINT, 16384, resizable=True, lpm=True),
    "nearby": MapSpec(U32, NEARBY, NEARBY_SLOTS),
    "pending": MapSpec(U64, U64, 4096, resizable=True),
    "epochs": MapSpec(U32, EPOCH, ENDPOINT_SLOTS),
    "slots": MapSpec(U32, SLOT, ENDPOINT_SLOTS),
    "dns_rates": MapSpec(U32, BUCKET, ENDPOINT_SLOTS),
    "outcome_rates": MapSpec(U32, BUCKET, ENDPOINT_SLOTS * 2),
    "flows": MapSpec(FLOW_KEY, FLOW, 65536, resizable=True),
    "answers": MapSpec(U32, ANSWER, ENDPOINT_SLOTS * 2 * ANSWER_SLOTS),
    "peers": MapSpec(PREFIX, CLASSES, 131072, resizable=True, lpm=True),
    "hosts": MapSpec(PREFIX, CLASSES, 131072, resizable=True, lpm=True),
    "names": MapSpec(DNS_NAME, CLASSES, 16384, resizable=True, lpm=True),
    "servers": MapSpec(SERVER_KEY, SERVERS, 65536, resizable=True, lpm=True),
    "parts": MapSpec(SERVER_KEY, PARTS, 65536, resizable=True, lpm=True),
    "grammar": MapSpec(U32, GRAMMAR, 1),
    "learned": MapSpec(LEARNED_KEY, LEARNED, 65536, resizable=True),
    "rules": MapSpec(RULE_KEY, RULE, 262144, resizable=True, lpm=True),
    "identities": MapSpec(U32, IDENTITY_TOTALS, IDENTITY_SLOTS, per_cpu=True),
    "denials": MapSpec(DENIAL_KEY, DENIAL, 16384, resizable=True),
    "losses": MapSpec(U32, U64, 15, per_cpu=True),
    "creators": MapSpec(U32, CREATOR, CREATOR_SLOTS),
    "events": MapSpec(U32, EVENT, EVENTS_BYTES, kernel_only=True),  # entries: bytes
    "sockets": MapSpec(U32, PROMOTED, 0, kernel_only=True),
    "questions": MapSpec(U32, ASKED, 0, kernel_only=True),
    "attempts": MapSpec(U32, ATTEMPT, 0, kernel_only=True),
    "greetings": MapSpec(U32, GREETING, 0, kernel_only=True),
    "requests": MapSpec(U32, REQUEST, 0, kernel_only=True),
}


RULE_KEY_BITS = 96
"""Of a key of `rules` before its port index, which may be a prefix."""


def pack_rule_key(ruleset: int, peer_class: int, direction: int, ports: tuple[int, int]) -> bytes:
    """Key of `rules`; `ports`: a prefix of port indexes (agent/model/want.py), all 32 bits of one for a lookup."""
    index, length = ports
    return RULE_KEY.pack(
        length=RULE_KEY_BITS + length, ruleset=ruleset, peer_class=peer_class, direction=direction,
        port_index=index.to_bytes(4, "big"),
    )  # fmt: skip


def pack_folder(cgroup_id: int) -> bytes:
    """Key of `endpoints`."""
    return FOLDER.pack(length=64, cgroup_id=cgroup_id.to_bytes(8, sys.byteorder))


def folder_id(key: bytes) -> int:
    """The cgroup id in a key of `endpoints`."""
    return int.from_bytes(FOLDER.unpack(key)["cgroup_id"], sys.byteorder)


def pack_address(address: IPv4Address | IPv6Address | int) -> bytes:
    """16 bytes in network order, IPv4 mapped; integers are 128-bit addresses already."""
    if isinstance(address, IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.to_bytes(16, "big") if isinstance(address, int) else address.packed


def unpack_address(data: bytes) -> IPv4Address | IPv6Address:
    """The other way round; mapped addresses come back as IPv4."""
    address = IPv6Address(data)
    return address.ipv4_mapped or address
