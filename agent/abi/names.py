"""DNS names as the keys of maps have them: reversed, so that what ends alike begins alike."""

from __future__ import annotations

from agent.abi.structs import SERVER_KEY, U32

RULESET_BITS = U32.size * 8


def labels_of(text: bytes) -> str:
    """The name without its `*.`: each label has a zero behind it, and a whole name one more at its end."""
    labels = text[::-1].strip(b"\0").split(b"\0")
    return b".".join(labels).decode("ascii", "backslashreplace")


def server_of(key: bytes) -> str:
    """The server name in a key of `servers`; "" where it has none."""
    server = SERVER_KEY.unpack(key)
    text = server["bytes"][: max(0, server["length"] - RULESET_BITS) // 8]
    return labels_of(text) if text else ""
