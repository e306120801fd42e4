"""What Hubble calls our reasons (cilium/api/v1/flow/flow.proto, DropReason)."""

from __future__ import annotations

from agent.model.verdict import DropReason

_POLICY_DENIED = (133, "POLICY_DENIED")
DROP_REASONS: dict[DropReason, tuple[int, str]] = {
    DropReason.NONE: _POLICY_DENIED,  # Hubble's own number 0 reads "Success"
    DropReason.NO_RULE: _POLICY_DENIED,
    DropReason.DENY_RULE: (181, "POLICY_DENY"),
    DropReason.UNKNOWN_PEER: _POLICY_DENIED,
    DropReason.PENDING: (203, "DROP_EP_NOT_READY"),
    DropReason.QUARANTINED: (171, "INVALID_IDENTITY"),
    DropReason.FRAGMENT: (157, "IP_FRAGMENTATION_NOT_SUPPORTED"),
    DropReason.SOURCE_ROUTE: (134, "INVALID_PACKET_DROPPED"),
    DropReason.INVALID_PACKET: (134, "INVALID_PACKET_DROPPED"),
    DropReason.RAW_SOCKET: _POLICY_DENIED,
    DropReason.NOT_A_REPLY: _POLICY_DENIED,
    DropReason.AGENT_GONE: (202, "DROP_HOST_NOT_READY"),
    DropReason.NOT_READY: (202, "DROP_HOST_NOT_READY"),
    DropReason.SOCKET_FAMILY: _POLICY_DENIED,
    DropReason.LOOPBACK: (132, "INVALID_SOURCE_IP"),
    DropReason.FOREIGN_SOURCE: (132, "INVALID_SOURCE_IP"),
    DropReason.NO_TLS: _POLICY_DENIED,
    DropReason.NO_SERVER_NAME: _POLICY_DENIED,
    DropReason.SERVER_NAME: _POLICY_DENIED,
    DropReason.ENCRYPTED_HELLO: _POLICY_DENIED,
    DropReason.HELLO_TOO_LONG: _POLICY_DENIED,
    DropReason.BROKEN_HELLO: _POLICY_DENIED,
    DropReason.HELLO_UNSEEN: _POLICY_DENIED,
    DropReason.NO_HTTP: _POLICY_DENIED,
    DropReason.REQUEST: _POLICY_DENIED,
    DropReason.REQUEST_TOO_LONG: _POLICY_DENIED,
    DropReason.BARE_LINE_END: _POLICY_DENIED,
    DropReason.FOLDED_HEADER: _POLICY_DENIED,
    DropReason.SPACE_IN_HEADER: _POLICY_DENIED,
    DropReason.BAD_HEADER: _POLICY_DENIED,
    DropReason.REQUEST_LENGTH: _POLICY_DENIED,
    DropReason.BAD_HOST: _POLICY_DENIED,
    DropReason.HOST_DISAGREES: _POLICY_DENIED,
    DropReason.UPGRADE: _POLICY_DENIED,
    DropReason.DOT_SEGMENT: _POLICY_DENIED,
    DropReason.BAD_ESCAPE: _POLICY_DENIED,
    DropReason.HTTP2: _POLICY_DENIED,
    DropReason.BAD_CHUNK: _POLICY_DENIED,
    DropReason.REQUEST_UNSEEN: _POLICY_DENIED,
    DropReason.SHARED_PAGES: _POLICY_DENIED,
    DropReason.TUNNEL_EARLY: _POLICY_DENIED,
    DropReason.BROKEN_REQUEST: _POLICY_DENIED,
    DropReason.START_TLS: _POLICY_DENIED,
    DropReason.UNKNOWN: _POLICY_DENIED,
}
"""Hubble's number and name for each of our reasons; ours stands in `extensions`."""
