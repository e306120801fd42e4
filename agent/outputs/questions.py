"""What the socket answers: each request is a name and fields, each answer plain JSON. Reads immutable values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from agent.errors import DagwallError
from agent.model.cluster import Cluster
from agent.model.node_state import View
from agent.model.verdict import Direction, Verdict
from agent.outputs.ends import FIELDS
from agent.outputs.explain import Question, explain
from agent.outputs.explained import explanations
from agent.outputs.filtering import Test
from agent.outputs.filtering import filter_of as fields_of
from agent.outputs.known import unknown_names
from agent.outputs.plain import plain
from agent.outputs.recent import Recent
from agent.outputs.records import Filter, Seen, record_of
from agent.outputs.rows import denial_record, endpoint_record, status_record
from agent.outputs.why import why_of

VERSION = 1
"""Of the protocol of requests and answers; grows when an old client would misread a new answer."""
MAX_COUNT = 10_000
DEFAULT_COUNT = 100
_WAIT_SECONDS = 1.0
_VERDICTS = tuple(verdict.name.lower() for verdict in Verdict)
_NUMBERS = ("port", "since", "until")
_DIRECTIONS = {direction.name.lower(): direction for direction in Direction}

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """What `dagwall flows` shows: of whom, and by filters of either end."""

    task: Filter
    passes: Test[Seen]

    def matches(self, seen: Seen) -> bool:
        return self.task.matches(seen) and self.passes(seen)


class BadRequest(DagwallError):
    """A request that cannot be answered; the text goes to who asked."""


class UnknownName(BadRequest):
    """Nothing was found, and a name that was asked for has never been heard of here; another node may know it."""


@dataclass(frozen=True, slots=True)
class Questions:
    """`view` answers None while the agent has not said anything yet."""

    view: Callable[[], View | None]
    cluster: Callable[[], Cluster]
    recent: Recent

    def answers(self, request: Request) -> Iterator[dict[str, Any]]:
        """One answer, or for `follow` one after the other without end; an empty one tells that nothing came.

        Raises BadRequest, or DagwallError, with a sentence.
        """
        if request.get("version") != VERSION:
            raise BadRequest(f"version: this agent speaks {VERSION} here, not {request.get('version')!r}")
        known: dict[str, Callable[[Request], Any]] = {
            "status": lambda _: status_record(self._view()),
            "endpoints": lambda _: [endpoint_record(row) for row in self._view().state.endpoints.values()],
            "identities": lambda _: self._view().totals.identities,
            "denials": lambda _: [denial_record(row) for row in self._view().totals.denials],
            "why": self._why,
            "explain": self._explain,
        }
        name = request.get("request")
        if name == "flows":
            yield from self._flows(request)
        elif isinstance(name, str) and name in known:
            yield {"result": plain(known[name](request))}
        else:
            raise BadRequest(f"request: must be one of flows, {', '.join(known)}, not {name!r}")

    def _view(self) -> View:
        view = self.view()
        if view is None:
            raise BadRequest("the agent is starting: ask again in a moment")
        return view

    def _flows(self, request: Request) -> Iterator[dict[str, Any]]:
        wanted, count = selection_of(request), _count(request)
        if not request.get("follow"):
            rows = [_row(seen) for seen in self.recent.last(wanted, count)]
            if not rows:
                self._check_names(wanted.task)
            yield {"result": rows}
            return
        with self.recent.follow(wanted) as subscription:
            for seen in self.recent.last(wanted, count):
                yield {"item": _row(seen)}
            while not subscription.closed:
                taken, lost = subscription.take(_WAIT_SECONDS)
                if lost:
                    yield {"lost": lost}
                for seen in taken:
                    yield {"item": _row(seen)}
                if not taken:
                    yield {}

    def _check_names(self, wanted: Filter) -> None:
        """Nothing was found: perhaps nobody has such a name. Raises UnknownName that lists who is known."""
        names = Filter(namespace=wanted.namespace, dag=wanted.dag, task=wanted.task, pod=wanted.pod)
        unknown = unknown_names(wanted, self._view(), self.cluster())
        if unknown and not self.recent.last(names, 1):
            raise UnknownName(unknown)

    def _explain(self, request: Request) -> Any:
        self._view()  # while the agent is starting, no pod is known
        return explain(self.cluster(), question_of(request))

    def _why(self, request: Request) -> dict[str, Any]:
        """Failures explained, the most important first, and beside them the kernel's exact numbers of denials."""
        wanted = filter_of(request)
        view = self._view()
        found = explanations(self.recent.last_failed(wanted), wanted, self.cluster(), _count(request))
        if not found:
            self._check_names(wanted)
        names = {
            row.number: f"{row.namespace}/{row.service_account}/{row.dag_id}/{row.task_id}"
            for row in view.totals.identities
            if wanted.means(row.namespace, row.dag_id, row.task_id)
        }
        totals = [
            denial_record(row) | {"name": names[row.identity]} for row in view.totals.denials if row.identity in names
        ]
        return {"failures": [why_of(each) for each in found], "totals": totals}


def _row(seen: Seen) -> dict[str, Any]:
    return record_of(seen).as_dict()


def _count(request: Request) -> int:
    count = request.get("last", DEFAULT_COUNT)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
        raise BadRequest(f"last: must be a whole number from 0 to {MAX_COUNT}, not {count!r}")
    return count


def _texts(request: Request, names: list[str]) -> dict[str, str]:
    found = {name: request[name] for name in names if request.get(name)}
    for name, value in found.items():
        if not isinstance(value, str):
            raise BadRequest(f"{name}: must be text, not {value!r}")
    return found


def _port(request: Request) -> int:
    port = request.get("port", 0)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise BadRequest(f"port: must be a whole number from 0 to 65535, not {port!r}")
    return port


def filter_of(request: Request) -> Filter:
    """The fields of Filter that a request has."""
    texts = _texts(request, [field.name for field in fields(Filter) if field.name not in _NUMBERS])
    if texts.get("verdict", "allow") not in _VERDICTS:
        raise BadRequest(f"verdict: must be one of {', '.join(_VERDICTS)}, not {texts['verdict']!r}")
    if texts.get("direction", "egress") not in _DIRECTIONS:
        raise BadRequest(f"direction: must be egress or ingress, not {texts['direction']!r}")
    port, times = _port(request), {name: request.get(name, 0) for name in ("since", "until")}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRequest(f"{name}: must be seconds since the epoch, not {value!r}")
    return Filter(**texts, port=port, since=float(times["since"]), until=float(times["until"]))


def selection_of(request: Request) -> Selection:
    """With `only` and `without`: filters by name, each with a list of texts. Raises BadRequest and BadFilter."""
    only, without = _fields(request, "only"), _fields(request, "without")
    denied = [{name: values} for name, values in without.items()]
    return Selection(filter_of(request), fields_of(FIELDS, [only], denied))


def _fields(request: Request, name: str) -> dict[str, list[str]]:
    found = request.get(name) or {}
    if not isinstance(found, dict) or not all(
        isinstance(values, list) and values and all(isinstance(value, str) and value for value in values)
        for values in found.values()
    ):
        raise BadRequest(f"{name}: must be lists of texts by the names of filters")
    return found


def question_of(request: Request) -> Question:
    """The fields of Question that a request has."""
    names = [field.name for field in fields(Question) if field.name not in ("port", "direction")]
    texts = _texts(request, names)
    if "host" not in texts:
        raise BadRequest("host: must be given")
    port, direction = _port(request), request.get("direction", "egress")
    if not isinstance(direction, str) or direction not in _DIRECTIONS:
        raise BadRequest(f"direction: must be egress or ingress, not {direction!r}")
    return Question(**texts, port=port, direction=_DIRECTIONS[direction])
