"""Answers of several nodes as one, in the shape that one agent gives. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any

from agent.errors import DagwallError

Row = dict[str, Any]
Answers = Mapping[str, Any]
"""Results of one request, by node."""

_SAME_FAILURE = (
    "cause", "namespace", "service_account", "dag_id", "task_id", "verdict", "reason", "direction", "peer",
    "protocol", "port", "detail", "rule", "end",
)  # fmt: skip
_SAME_TOTAL = ("name", "verdict", "direction", "reason", "rule")
DEFAULT_LAST = 100


def merged(request: str, answers: Answers, fields: Mapping[str, Any]) -> Any:
    """Raises DagwallError for a request whose answers cannot be one."""
    if request not in _MERGES:
        raise DagwallError(f"{request}: is of one node: name it with --node")
    return _MERGES[request](answers, fields)


def _flows(answers: Answers, fields: Mapping[str, Any]) -> list[Row]:
    """In the order of time; the last ones of all."""
    rows = sorted(_rows(answers), key=lambda row: row["time"])
    last = fields.get("last", DEFAULT_LAST)
    return rows[-last:] if last else []


def _rows(answers: Answers) -> list[Row]:
    """All rows, each with its node."""
    return [row | {"node": node} for node, rows in answers.items() for row in rows]


def _why(answers: Answers, fields: Mapping[str, Any]) -> Row:
    """What one node calls most important stays before what it calls less; equal failures of several nodes are one."""
    ranks = zip_longest(*(
        [failure | {"nodes": [node]} for failure in answer["failures"]] for node, answer in answers.items()
    ))  # fmt: skip
    ranked = [
        failure
        for rank in ranks
        for failure in sorted(filter(None, rank), key=lambda each: -each["last"])
    ]  # fmt: skip
    failures = _joined(ranked, _SAME_FAILURE, _failure)
    totals = [total for answer in answers.values() for total in answer["totals"]]
    return {
        "failures": failures[: fields.get("last", DEFAULT_LAST)],
        "totals": _joined(totals, _SAME_TOTAL, lambda one, two: one | {"packets": one["packets"] + two["packets"]}),
    }


def _failure(one: Row, two: Row) -> Row:
    """The newer one's words, both ones' numbers."""
    newer = max(one, two, key=lambda each: each["last"])
    return newer | {
        "events": one["events"] + two["events"],
        "first": min(one["first"], two["first"]),
        "nodes": sorted({*one["nodes"], *two["nodes"]}),
    }


def _joined(rows: Iterable[Row], names: Iterable[str], join: Callable[[Row, Row], Row]) -> list[Row]:
    """Rows of equal values joined, where the first one stood."""
    wanted = tuple(names)
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(str(row.get(name)) for name in wanted)
        found[key] = join(found[key], row) if key in found else row
    return list(found.values())


def _explain(answers: Answers, _: Mapping[str, Any]) -> list[Row]:
    """All nodes decide by the same policies: equal answers are one, and one that knows a pod goes before."""
    rows = [row | {"nodes": [node]} for node, rows in answers.items() for row in rows]
    same = ("identity", "pod", "address", "protocol", "port", "verdict", "text", "end")
    found = _joined(rows, same, lambda one, two: one | {"nodes": one["nodes"] + two["nodes"]})
    return [row for row in found if row["pod"]] or found


_MERGES: dict[str, Callable[[Answers, Mapping[str, Any]], Any]] = {
    "flows": _flows,
    "identities": lambda answers, _: _rows(answers),
    "endpoints": lambda answers, _: _rows(answers),
    "why": _why,
    "explain": _explain,
}
"""By request; `status` is shown node by node."""
