"""What an auditor asks: who could reach what, what was denied, who changed which policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.errors import DagwallError
from agent.model.selector import id_matches

Record = Mapping[str, Any]
DENIED_BY = (
    "verdict", "namespace", "service_account", "dag_id", "task_id", "direction", "peer", "protocol", "port", "reason",
    "rule",
)  # fmt: skip
"""What denials that are counted together have in common."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Empty: any; ids are patterns (P16). `since` and `until` in seconds since the epoch, 0 for none."""

    namespace: str = ""
    dag: str = ""
    task: str = ""
    since: float = 0.0
    until: float = 0.0

    def in_time(self, record: Record) -> bool:
        moment = datetime.fromisoformat(str(record["time"]).replace("Z", "+00:00")).timestamp()
        return moment >= self.since and (not self.until or moment <= self.until)

    def means(self, record: Record) -> bool:
        fields = ((self.namespace, "namespace"), (self.dag, "dag_id"), (self.task, "task_id"))
        return all(not pattern or id_matches(pattern, str(record.get(name, ""))) for pattern, name in fields)


@dataclass(slots=True)
class Denied:
    """Denials that differ in nothing but their time."""

    count: int
    first: str
    last: str


@dataclass(slots=True)
class Report:
    """`identities`: pods by what they claimed, with the policies that selected them; `denied` by who, what, why."""

    identities: list[Record] = field(default_factory=list)
    policies: list[Record] = field(default_factory=list)
    denied: dict[tuple[str, ...], Denied] = field(default_factory=dict)
    others: list[Record] = field(default_factory=list)  # quarantines, postures, starts, detaches, losses
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each policy, at the end of the time

    def reachable(self) -> list[tuple[str, str, Any]]:
        """Policy, rule and what it says, of those that selected one of the identities."""
        selected = sorted({name for record in self.identities for name in record["policies"]})
        return [(name, rule, said) for name in selected for rule, said in sorted(self.rules.get(name, {}).items())]


def report(records: Iterable[Record], wanted: Wanted) -> Report:
    """Rules of policies count from before the time that is asked for, as those in force at its beginning.

    Raises DagwallError where a record is none of ours.
    """
    out = Report()
    for record in records:
        try:
            _take(out, record, wanted)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DagwallError(f"record {record.get('seq')} is not as dagwall writes it: verify the log") from exc
    return out


def _take(out: Report, record: Record, wanted: Wanted) -> None:
    kind = record.get("kind")
    if kind == "policy":
        _learn(out.rules, record)
    if not wanted.in_time(record):
        return
    if kind == "denial":
        if wanted.means(record):
            _deny(out.denied, record)
    elif kind == "identity":
        out.identities += [record] if wanted.means(record) else []
    elif kind == "policy":
        out.policies.append(record)
    elif kind in ("quarantine", "quarantine_end"):
        out.others += [record] if wanted.means(record) else []
    elif kind != "identity_end":
        out.others.append(record)


def _learn(rules: dict[str, dict[str, Any]], record: Record) -> None:
    if record["change"] == "went":
        rules.pop(str(record["policy"]), None)
        return
    own = rules.setdefault(str(record["policy"]), {})
    for each in record.get("rules", ()):
        if each["after"] is None:
            own.pop(each["rule"], None)
        else:
            own[each["rule"]] = each["after"]


def _deny(denied: dict[tuple[str, ...], Denied], record: Record) -> None:
    key = tuple(str(record.get(name, "")) for name in DENIED_BY)
    time = str(record["time"])
    found = denied.setdefault(key, Denied(0, time, time))
    found.count, found.last = found.count + 1, time
