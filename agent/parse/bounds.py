"""What one policy of any kind may bring."""

from __future__ import annotations

from agent.parse.fields import Field

MAX_RULES, MAX_PEERS, MAX_PORTS = 500, 10_000, 1000
"""Of one policy, all rules together: far beyond what people write, and what keeps one tenant from stalling a node."""


def refuse_excess(spec: Field, rules: int, peers: int, ports: int) -> None:
    """Raises InvalidObject. An exception of a CIDR counts as a peer."""
    for what, count, most in (("rules", rules, MAX_RULES), ("peers", peers, MAX_PEERS), ("ports", ports, MAX_PORTS)):
        if count > most:
            raise spec.error(f"has {count} {what}; at most {most} fit into one policy, write several")
