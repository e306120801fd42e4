"""The agents of a cluster, by their pods: found by the API server, asked by what `kubectl exec` does."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.cli.gather import Gathered, Question, gather
from agent.cli.merge import merged
from agent.errors import ApiError, DagwallError
from agent.outputs.client import checked
from agent.outputs.questions import VERSION, UnknownName
from agent.sources.kube_api import KubeApi
from agent.sources.kube_exec import Container, lines

SELECTOR = "app.kubernetes.io/name=dagwall,app.kubernetes.io/component=agent"
CONTAINER = "agent"
_KEPT = 10_000
"""Followed flows that wait for a slow terminal."""


@dataclass(frozen=True, slots=True)
class Found:
    """By node: the pods of agents that run, and why the others do not."""

    pods: Mapping[str, str]
    absent: Mapping[str, str]


def agents_of(items: list[Mapping[str, Any]], node: str) -> Found:
    """Of a list of pods; of one node where it is named. Pure. A pod that ends has a successor, or will have."""
    pods: dict[str, str] = {}
    absent: dict[str, str] = {}
    for pod in items:
        name = pod["spec"].get("nodeName")
        if not name or (node and name != node):
            continue
        state = _state(pod)
        if not state:
            pods[name] = str(pod["metadata"]["name"])
        elif name not in pods:
            absent[name] = f"pod {pod['metadata']['name']}: {state}"
    return Found(pods, {name: why for name, why in absent.items() if name not in pods})


def _state(pod: Mapping[str, Any]) -> str:
    """Why nobody can be asked in its container; "" where it runs."""
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            ((kind, detail),) = list((container.get("state") or {"waiting": None}).items())[:1]
            if kind == "running":
                return ""
            return str((detail or {}).get("reason") or kind)
    return str(status.get("reason") or status.get("phase") or "has not started")


@dataclass(slots=True)
class Agents:
    """Answers as one agent does (asking.Asker), by asking all. `seconds`: for each node. `missing`, after an answer:
    who did not give one, and why.
    """

    api: KubeApi
    namespace: str
    seconds: float
    found: Found
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def connect(cls, kubeconfig: str, context: str, namespace: str, node: str, seconds: float) -> Agents:
        """Raises DagwallError where there is no agent, or no way to them."""
        api = KubeApi.connect(kubeconfig, context)
        answer = api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=SELECTOR)
        items = list(answer.get("items") or ())
        found = agents_of(items, node)
        if not found.pods and not found.absent:
            known = ", ".join(sorted({i["spec"].get("nodeName", "") for i in items} - {""})[:10])
            where = f"on node {node} (there are some on: {known or 'none'})" if node else f"in namespace {namespace}"
            raise DagwallError(
                f"no agent is {where}: pods with the labels {SELECTOR}; --agents names their namespace"
            )
        return cls(api, namespace, seconds, found)

    def gathered(self, request: str, fields: Mapping[str, Any]) -> Gathered:
        """Each node's own answer. Raises DagwallError where none answered."""
        asked = {"version": VERSION, "request": request, **fields}
        return self._gathered(lambda node: self._ask(node, asked))

    def printed(self, *words: str) -> Gathered:
        """The JSON that a command prints in each agent's container, whatever its exit code. Raises as `gathered`."""
        return self._gathered(lambda node: self._printed(node, words))

    def _gathered(self, ask: Question) -> Gathered:
        got = gather(self.found.pods, ask, self.seconds)
        self.missing = {**self.found.absent, **{node: str(error) for node, error in got.missing.items()}}
        if got.refusal():
            raise DagwallError(got.refusal())
        if not got.results and not got.unknown:
            reasons = "; ".join(f"{node}: {why}" for node, why in sorted(self.missing.items())[:10])
            raise DagwallError(f"no agent answered: {reasons}")
        return got

    def ask(self, request: str, **fields: Any) -> Any:
        """One answer made of all. Raises DagwallError; UnknownName where nobody knows a name."""
        got = self.gathered(request, fields)
        if not got.results:
            raise UnknownName(next(iter(got.unknown.values())))
        return merged(request, got.results, fields)

    def follow(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """What comes from any node, as it comes, until all have ended."""
        waiting: queue.Queue[tuple[str, dict[str, Any] | DagwallError | None]] = queue.Queue(_KEPT)
        asked = {"version": VERSION, "request": "flows", **fields, "follow": True}
        for node in self.found.pods:
            threading.Thread(target=self._follow, args=(node, asked, waiting), daemon=True).start()
        self.missing = dict(self.found.absent)
        open_ = len(self.found.pods)
        while open_:
            node, answer = waiting.get()
            if answer is None or isinstance(answer, DagwallError):
                open_ -= 1
                self.missing[node] = str(answer or "its agent has ended")
            elif "item" in answer:
                yield answer | {"item": answer["item"] | {"node": node}}
            elif "lost" in answer:
                yield answer

    def _follow(
        self, node: str, asked: dict[str, Any], waiting: queue.Queue[tuple[str, dict[str, Any] | DagwallError | None]]
    ) -> None:
        try:
            for answer in self._answers(node, asked, None):
                waiting.put((node, answer))
            waiting.put((node, None))
        except DagwallError as exc:
            waiting.put((node, exc))
        except Exception as exc:  # noqa: BLE001  one node may answer anything: the others go on
            waiting.put((node, ApiError(f"{type(exc).__name__}: {exc}", 0)))

    def _ask(self, node: str, asked: dict[str, Any]) -> Any:
        for answer in self._answers(node, asked, self.seconds):
            return answer.get("result")
        raise ApiError("its agent gave no answer", 0)

    def _printed(self, node: str, words: Sequence[str]) -> Any:
        said: list[bytes] = []
        try:
            said.extend(lines(self.api, self._container(node), ("dagwall", *words), self.seconds))
            return json.loads(b"\n".join(said))
        except ValueError as exc:
            raise ApiError(f"no JSON: {b' '.join(said)[:100]!r}", 0) from exc

    def _container(self, node: str) -> Container:
        return Container(self.namespace, self.found.pods[node], CONTAINER)

    def _answers(self, node: str, asked: dict[str, Any], seconds: float | None) -> Iterator[dict[str, Any]]:
        container = self._container(node)
        command = ("dagwall", "ask", json.dumps(asked))
        for line in lines(self.api, container, command, seconds):
            try:
                answer = json.loads(line)
            except ValueError as exc:
                raise ApiError(f"exec in {container.pod}: no JSON: {line[:100]!r}", 0) from exc
            yield checked(answer)
