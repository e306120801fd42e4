"""Want as packed keys and values."""

from __future__ import annotations

from agent.abi.names import RULESET_BITS, labels_of
from agent.abi.structs import (
    ADDRESS_OF_DNS,
    ADDRESS_OF_HOST,
    CLASSES,
    DNS_NAME,
    ENDPOINT,
    EPOCH,
    FLAG_AUDIT_SOCKETS,
    FLAG_HELLOS,
    FLAG_HOST_NETWORK,
    FLAG_NAMES,
    FLAG_RAW_SOCKETS,
    NAME_BYTES,
    NEARBY,
    PARTS,
    PREFIX,
    RULE,
    RULE_AUDITS_HELLO,
    SERVER_BYTES,
    SERVER_KEY,
    SERVERS,
    U32,
    pack_address,
    pack_rule_key,
)
from agent.model.cluster import Address
from agent.model.verdict import EndpointState
from agent.model.want import (
    Assignment,
    Classes,
    Host,
    NameNode,
    PartNode,
    Parts,
    Prefix,
    RuleKey,
    Ruleset,
    RuleValue,
    ServerNode,
    Servers,
)
from agent.semantics.names import WILDCARD

_DENY_ALL = RULE.pack() * 2
_ADDRESS_BITS = 128
_NO_ADDRESS = bytes(16)


def pack_row(key: RuleKey) -> bytes:
    return pack_rule_key(key.ruleset, key.peer_class, int(key.direction), key.ports)


def pack_rule(rule: RuleValue) -> bytes:
    return RULE.pack(
        rule=rule.rule,
        verdict=int(rule.verdict),
        reason=int(rule.reason),
        lift=int(rule.lift),
        flags=RULE_AUDITS_HELLO if rule.audits_hello else 0,
        hellos=rule.hellos,
        requests=rule.requests,
    )


def pack_prefix(prefix: Prefix) -> bytes:
    address, length = prefix
    return PREFIX.pack(length=length, address=pack_address(address))


def pack_host(host: Host) -> bytes:
    return PREFIX.pack(length=_ADDRESS_BITS, address=pack_address(host))


def pack_name(node: NameNode) -> bytes:
    """Key of `names`."""
    text = _reversed(node)
    return DNS_NAME.pack(length=len(text) * 8, bytes=text.ljust(NAME_BYTES, b"\0"))


def pack_server(server: ServerNode) -> bytes:
    """Key of `servers`."""
    ruleset, node = server
    text = _reversed(node) if node else b""
    return SERVER_KEY.pack(
        length=RULESET_BITS + len(text) * 8, ruleset=ruleset, bytes=text.ljust(SERVER_BYTES, b"\0")
    )


def pack_servers(servers: Servers) -> bytes:
    return SERVERS.pack(
        named=servers.named, nameless=servers.nameless, encrypted=servers.encrypted, hosts=servers.hosts,
        start_tls=servers.start_tls, tunnel_any=servers.tunnels.any, tunnel_named=servers.tunnels.named,
        tunnel_nameless=servers.tunnels.nameless, tunnel_encrypted=servers.tunnels.encrypted,
    )  # fmt: skip


def pack_part(node: PartNode) -> bytes:
    """Key of `parts`."""
    ruleset, text = node
    return SERVER_KEY.pack(
        length=RULESET_BITS + len(text) * 8, ruleset=ruleset, bytes=text.ljust(SERVER_BYTES, b"\0")
    )


def pack_parts(parts: Parts) -> bytes:
    return PARTS.pack(bits=parts.bits, from_behind=parts.from_behind)


def _reversed(node: NameNode) -> bytes:
    """What ends alike begins alike. A whole name has a zero more than a suffix."""
    labels = node.removeprefix(WILDCARD).split(".")
    text = b"".join(b"\0" + label.encode("ascii") for label in labels)[::-1]
    return text if node.startswith(WILDCARD) else text + b"\0"


def unpack_name(key: bytes) -> str:
    """The other way round, of a whole name or of a suffix."""
    name = DNS_NAME.unpack(key)
    text = name["bytes"][: name["length"] // 8]
    return labels_of(text) if text.endswith(b"\0\0") else WILDCARD + labels_of(text)


def pack_classes(classes: Classes) -> bytes:
    flags = (ADDRESS_OF_HOST if classes.of_host else 0) | (ADDRESS_OF_DNS if classes.of_dns else 0)
    return CLASSES.pack(peer=classes.peer, base=classes.base, flags=flags)


def pack_index(index: int) -> bytes:
    return U32.pack(value=index)


def unpack_index(key: bytes) -> int:
    return int(U32.unpack(key)["value"])


def pack_endpoint(assignment: Assignment, ruleset: Ruleset | None, number: int, slot: int) -> bytes:
    """Value of `endpoints`. Without a ruleset both directions are denied."""
    flags = place_flags(assignment)
    if ruleset and ruleset.sockets.raw:
        flags |= FLAG_RAW_SOCKETS
    if ruleset and ruleset.sockets.audit:
        flags |= FLAG_AUDIT_SOCKETS
    if ruleset and ruleset.names:
        flags |= FLAG_NAMES
    if ruleset and ruleset.hellos:
        flags |= FLAG_HELLOS
    return ENDPOINT.pack(
        identity=number,
        ruleset=assignment.ruleset,
        slot=slot,
        state=int(assignment.state),
        flags=flags,
        defaults=b"".join(map(pack_rule, ruleset.defaults)) if ruleset else _DENY_ALL,
        own=b"".join(_first_of(assignment.addresses, version) for version in (4, 6)),
    )


def pack_pending(endpoint: bytes) -> bytes:
    """The same endpoint, held back."""
    return ENDPOINT.pack(**{**ENDPOINT.unpack(endpoint), "state": int(EndpointState.PENDING)})


def place_flags(assignment: Assignment) -> int:
    """Flags of an endpoint that `nearby` has too."""
    return FLAG_HOST_NETWORK if assignment.host_network else 0


def pack_epoch(epoch: int, evicted: tuple[int, int]) -> bytes:
    egress, ingress = evicted
    return EPOCH.pack(epoch=epoch, evicted=(egress & 0xFFFFFFFF, ingress & 0xFFFFFFFF))


def pack_nearby(cgroup_id: int, state: EndpointState, flags: int, epoch: int) -> bytes:
    """Value of `nearby`; zeros for an entry that nobody holds."""
    if not cgroup_id:
        return NEARBY.pack()
    return NEARBY.pack(cgroup_id=cgroup_id, epoch=epoch, state=int(state), flags=flags)


def _first_of(addresses: tuple[Address, ...], version: int) -> bytes:
    return next((pack_address(each) for each in addresses if each.version == version), _NO_ADDRESS)
