"""One node's word about policies, as an annotation of its Lease. Pure.

Policies stand in it by digests, a few bytes for each. A report is bounded, and shared fairly among namespaces: where
it would be too large, those with the most policies are left out, whole, and the report says so; the others are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.model.policy import PolicyRef

MAX_REPORT = 64_000
"""Bytes: 2,500 policies. All annotations of an object have 256 KiB, and each node writes its own."""
REFUSAL = 200
"""Characters of the sentence about one refused policy."""
_LEFT_OUT = 100
"""Names of namespaces that are left out; of more there is no word."""

Tenants = dict[str, dict[str, list[int | str]]]
"""Per namespace and policy: generation in force, pods, and the refusal where there is one."""


def digest(ref: PolicyRef) -> str:
    """`NAMESPACE/HEX`: of which policy of which tenant a report speaks."""
    return f"{ref.namespace}/{hashlib.blake2b(str(ref).encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Per policy (by digest) the generation in force and the pods it selects; `problem`: why not ready; `refused`:
    per policy (by digest) why this node does not take its newest version (P17)."""

    policies: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""
    left_out: frozenset[str] = frozenset()  # namespaces
    refused: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> str:
        """JSON for the annotation."""
        tenants: Tenants = {}
        for name, pair in sorted(self.policies.items()):
            namespace, _, short = name.rpartition("/")
            why = self.refused.get(name, "")[:REFUSAL]
            tenants.setdefault(namespace, {})[short] = [*pair, why] if why else [*pair]
        kept, left_out = _fitting(tenants)
        document = {"tenants": kept, "problem": self.problem, "leftOut": sorted(self.left_out | left_out)[:_LEFT_OUT]}
        return _text(document)

    @classmethod
    def decode(cls, text: str) -> NodeReport | None:
        """None where it is not one; other versions of the agent may say more."""
        try:
            document = json.loads(text)
            entries = {
                f"{namespace}/{short}": entry
                for namespace, policies in document["tenants"].items()
                for short, entry in policies.items()
            }
            pairs = {name: (int(entry[0]), int(entry[1])) for name, entry in entries.items()}
            refused = {name: str(entry[2])[:REFUSAL] for name, entry in entries.items() if len(entry) > 2}
            left_out = frozenset(str(name) for name in document.get("leftOut") or ())
            return cls(pairs, str(document.get("problem") or ""), left_out, refused)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None

    def differs_in_conditions(self, other: NodeReport | None) -> bool:
        """More than numbers of pods."""
        if other is None or (self.problem, self.refused) != (other.problem, other.refused):
            return True
        return {n: p[0] for n, p in self.policies.items()} != {n: p[0] for n, p in other.policies.items()}


def _fitting(tenants: Tenants) -> tuple[Tenants, frozenset[str]]:
    """Cluster-scoped policies first, then the smallest tenants, as long as each leaves as much for every other."""
    room, kept = MAX_REPORT, Tenants()
    waiting = sorted(tenants, key=lambda namespace: (namespace != "", len(tenants[namespace]), namespace))
    for i, namespace in enumerate(waiting):
        size = len(_text({namespace: tenants[namespace]}))
        if size > (room if namespace == "" else room / (len(waiting) - i)):
            return kept, frozenset(waiting[i:]) - kept.keys()
        kept[namespace] = tenants[namespace]
        room -= size
    return kept, frozenset()


def _text(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
