"""`tls` of a rule: what its connections must begin with."""

from __future__ import annotations

from agent.model.policy import Entity, EntityPeer, FqdnPeer, Peer, PortMatch, StartTls, Tls
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction
from agent.parse.fields import Field
from agent.parse.peers import parse_fqdn

MAX_NAME = 250
FIELDS = ("required", "serverNames", "startTls", "allowNoServerName", "allowEncryptedHello")


def parse_tls(
    item: Field, direction: Direction, peers: tuple[Peer, ...] | None, ports: tuple[PortMatch, ...] | None
) -> Tls | None:
    """Of a rule; None where it has none. Without serverNames the rule's fqdn peers say which names are meant."""
    if not item.has("tls"):
        return None
    field = item.child("tls")
    field.mapping(*FIELDS)
    if direction is not Direction.EGRESS:
        raise field.error("belongs to rules of egress only")
    refuse_datagrams(item, field, peers, ports)
    required, names, start = field.child("required"), _names(field.child("serverNames")), field.child("startTls")
    if not required.boolean(default=True):
        raise required.error("must be true; leave tls out to allow any bytes")
    if required.absent and not names and start.absent:
        raise field.error("must have required: true, serverNames or startTls")
    return Tls(
        names or _names_of_peers(field, peers),
        nameless=field.child("allowNoServerName").boolean(default=False),
        encrypted=field.child("allowEncryptedHello").boolean(default=False),
        start_tls=None if start.absent else start.choice(StartTls),
    )


def refuse_datagrams(
    item: Field, field: Field, peers: tuple[Peer, ...] | None, ports: tuple[PortMatch, ...] | None
) -> None:
    """`field`: tls or http."""
    if ports is None:
        raise field.error("needs ports, of TCP")
    for entry, port in zip(item.child("ports").items(), ports, strict=False):
        if port.protocol != IpProtocol.TCP:
            raise entry.error(
                f"must be TCP in a rule with {field.path.rpartition('.')[2]}: nothing else can be judged by it"
            )
    if EntityPeer(Entity.DNS) in (peers or ()):
        raise field.error("has no meaning for entity dns, which is UDP too; write a rule of its own for it")


def _names(field: Field) -> tuple[str, ...]:
    if field.absent:
        return ()
    found = tuple(dict.fromkeys(_name(name) for name in field.items()))
    if not found:
        raise field.error("must name at least one server")
    return found


def _name(field: Field) -> str:
    name = parse_fqdn(field).lower().rstrip(".")
    if len(name) > MAX_NAME:
        raise field.error(f"must have at most {MAX_NAME} characters")
    return name


def _names_of_peers(field: Field, peers: tuple[Peer, ...] | None) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(peer.pattern for peer in peers or () if isinstance(peer, FqdnPeer)))
    if named and not all(isinstance(peer, FqdnPeer) for peer in peers or ()):
        raise field.error("needs serverNames where some peers are fqdn and others are not, or two rules")
    if any(len(name) > MAX_NAME for name in named):
        raise field.error(f"needs fqdn peers of at most {MAX_NAME} characters")
    return named
