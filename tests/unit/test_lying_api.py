"""Whatever answers in the API server's place: what is enforced stays, that is said, and it passes by itself.

Real sockets; each lie is told to every request, until the server is honest again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from agent.errors import ApiError, ApiStatus
from agent.model.cluster import Cluster
from agent.parse.objects import parse_object
from agent.sources import informer, kube_api, kubernetes
from agent.sources.informer import Informer
from agent.sources.kube_api import KubeApi
from agent.sources.kubernetes import KubernetesSource
from agent.sources.last_valid import LastValid
from agent.sources.reflector import Reflector, Resource
from agent.sources.store import Store
from tests.unit.fake_api import KINDS, FakeApi, Request, hang, nested

HTML = b"<html><body>It works!</body></html>"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waits, shorter."""
    monkeypatch.setattr(informer, "BACKOFF_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(informer, "CONFIRM_SECONDS", 0.5)
    monkeypatch.setattr(informer, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(informer, "ABSENT_SECONDS", 0.2)
    monkeypatch.setattr(kube_api, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(kube_api, "DOCUMENT_SECONDS", 1.0)
    monkeypatch.setattr(kubernetes, "UNREADY_SECONDS", 0.5)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.put("namespaces", "airflow", labels={"dagwall.io/managed": "true"})
        api.put("pods", "task", "airflow", spec={"nodeName": "n1", "containers": [{"name": "base"}]})
        api.put("tasknetworkpolicies", "wall", "airflow", spec={"egress": []})
        api.put(
            "taskidentitybindings", "who", spec={"namespace": "airflow", "serviceAccounts": ["a"], "dagIds": ["b"]}
        )
        yield api


class Reading:
    """A source in use, and the file in which it keeps policies."""

    def __init__(self, api: FakeApi, folder: Path) -> None:
        self.folder = folder
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "it", "user": {}}],
            "clusters": [{"name": "it", "cluster": {"server": api.url}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(config))
        self.again()

    def again(self) -> None:
        """Another agent in its place."""
        kept = LastValid(self.folder / "last-valid.json")
        api = KubeApi.connect(str(self.folder / "kubeconfig"))
        self.source = KubernetesSource(api, Store(Cluster()), "n1", kept=kept)
        self.source.start()

    @property
    def cluster(self) -> Cluster:
        return self.source.store.snapshot

    def enforced(self) -> tuple[set[str], ...]:
        c = self.cluster
        return (
            {pod.name for pod in c.pods.values()}, {ref.name for ref in c.policies}, set(c.bindings),
            {name for name, found in c.namespaces.items() if found.managed}, {name for _, name in c.services},
        )  # fmt: skip

    def state(self) -> str:
        now = time.monotonic()
        kinds = [(i.kind, i.why, round(i.stale_seconds(now), 1)) for i in self.source.informers]
        return f"not in time: {self.enforced()} {kinds}"

    def until(self, check: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, self.state()
            self.source.read(0.05)

    def well(self) -> bool:
        return self.cluster.complete and self.source.stale_seconds() == 0 and not self.source.trouble()


@pytest.fixture
def reading(api: FakeApi, tmp_path: Path) -> Iterator[Reading]:
    found = Reading(api, tmp_path)
    found.until(found.well)
    found.source.read()  # keeps for the next agent what the reads before have handed over
    yield found
    found.source.close()


EVERYTHING = ({"task"}, {"wall"}, {"who"}, {"airflow"}, {"kubernetes"})


def status(code: int) -> Callable[[Request], bool]:
    return lambda request: request.refuse(code)


def of_lists(body: Callable[[Request], object]) -> Callable[[Request], bool]:
    """To a list this body, to a watch a stream without a word."""

    def lie(request: Request) -> bool:
        if request.plural not in KINDS:
            return False
        return hang(request) if request.watches else request.reply(body(request))

    return lie


def cut_at_once(request: Request) -> bool:
    request.close_connection = True
    return True


def cut_within(request: Request) -> bool:
    request.send_response(200)
    request.send_header("Content-Length", "1000000")
    request.end_headers()
    request.wfile.write(b'{"kind": "PodList", "items": [')
    return cut_at_once(request)


def dripping(request: Request) -> bool:
    """A byte now and then, for ever."""
    request.stream()
    lies = request.api.lies()
    while lies():
        request.wfile.write(b"1\r\n \r\n")
        time.sleep(0.1)
    return cut_at_once(request)


def ended_streams(request: Request) -> bool:
    """Lists are refused, watches accepted and ended without a word."""
    if not request.watches:
        return request.refuse(503)
    request.stream()
    request.wfile.write(b"0\r\n\r\n")
    return True


def events(line: bytes) -> Callable[[Request], bool]:
    def lie(request: Request) -> bool:
        if not request.watches:
            return request.refuse(503)
        request.stream()
        request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
        return True

    return lie


def without_group(request: Request) -> bool:
    """What a server says whose discovery has the group, while lists and watches are 404 (a proxy, a restart)."""
    return request.plural in KINDS and request.refuse(404)


def unserved(request: Request) -> bool:
    """The server's own documents lack our kinds: a definition was taken away, or is not there yet."""
    if request.path == "/apis":
        return request.reply(request.api.groups(["discovery.k8s.io", "apps"]))
    ours = "dagwall.io" in request.path
    return ours and request.refuse(404)


def nothing_served(request: Request) -> bool:
    return request.reply({"kind": "APIGroupList", "groups": []}) if request.path == "/apis" else request.refuse(404)


def groups_with(versions: object) -> Callable[[Request], bool]:
    """404 for every kind, and discovery of another shape."""
    groups = {"kind": "APIGroupList", "groups": [{"name": "dagwall.io", "versions": versions}]}

    def lie(request: Request) -> bool:
        return request.reply(groups) if request.path == "/apis" else without_group(request)

    return lie


LIES: dict[str, Callable[[Request], bool]] = {
    **{str(code): status(code) for code in (301, 400, 401, 403, 404, 405, 429, 500, 502, 503, 504)},
    "html with 200": lambda request: request.reply(HTML, kind="text/html"),
    "html with 404": lambda request: request.reply(HTML, 404, "text/html"),
    "an empty answer": lambda request: request.reply(b""),
    "an empty object": lambda request: request.reply({}),
    "a list of nothing": lambda request: request.reply([]),
    "a status with 200": lambda request: request.reply({"kind": "Status", "status": "Success"}),
    "a list without version": of_lists(lambda r: {**r.api.listing(r.plural), "metadata": {}}),
    "a list of another kind": of_lists(lambda r: {**r.api.listing("nodes")}),
    "a list with a version that is no number": of_lists(
        lambda r: {**r.api.listing(r.plural), "metadata": {"resourceVersion": "\u00b2"}}
    ),
    "a list with a version of 5,000 digits": of_lists(
        lambda r: {**r.api.listing(r.plural), "metadata": {"resourceVersion": "9" * 5000}}
    ),
    "members that are no objects": of_lists(lambda r: {**r.api.listing(r.plural), "items": [1]}),
    "nested too deep": lambda request: request.reply(b"[" * 200_000),
    "cut at once": cut_at_once,
    "cut within": cut_within,
    "dripping": dripping,
    "silence": hang,
    "streams that end": ended_streams,
    "an event that is no JSON": events(b"<html>\n"),
    "an event of another kind": events(b'{"type": "DELETED", "object": {"kind": "Secret", "metadata": {}}}\n'),
    "an event without object": events(b'{"type": "DELETED"}\n'),
    "an event nested too deep": events(b"[" * 200_000 + b"\n"),
    "404 for the kinds": without_group,
    "groups whose versions are a number": groups_with(5),
    "groups whose versions are words": groups_with(["v1"]),
    "discovery without our kinds": unserved,
    "discovery without anything": nothing_served,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_changes_nothing_is_said_and_passes(
    api: FakeApi, reading: Reading, lie: Callable[[Request], bool]
) -> None:
    assert reading.enforced() == EVERYTHING
    with api.lying(lie):
        reading.until(lambda: reading.source.stale_seconds() > 1.5)
        assert reading.enforced() == EVERYTHING
        assert "nothing new is known of" in reading.source.trouble()
    kept = json.loads((reading.folder / "last-valid.json").read_text())["objects"]
    assert {obj["metadata"]["name"] for obj in kept} == {"wall", "who", "airflow", "default"}
    api.put("tasknetworkpolicies", "second", "airflow", spec={"egress": []})
    reading.until(lambda: "second" in reading.enforced()[1])
    reading.until(reading.well)


@pytest.mark.parametrize(
    "lie", [LIES["404 for the kinds"], LIES["403"], LIES["silence"]], ids=["404", "403", "silence"]
)
def test_a_new_agent_is_not_fooled_either(api: FakeApi, reading: Reading, lie: Callable[[Request], bool]) -> None:
    """It takes no kind for settled: the snapshot is not complete, and what was enforced stays."""
    reading.source.close()
    with api.lying(lie):
        reading.again()
        end = time.monotonic() + 2
        reading.until(lambda: time.monotonic() > end)
        assert not reading.cluster.complete
        assert reading.source.stale_seconds() > 0.5
        assert reading.source.trouble()
    reading.until(lambda: reading.well() and reading.enforced() == EVERYTHING)


@pytest.mark.parametrize("levels", [100, 900, 9000])
def test_an_object_that_is_nested_too_deep_is_refused_alone(api: FakeApi, reading: Reading, levels: int) -> None:
    """A CRD that keeps unknown fields keeps such a one, and any tenant may write it (P17)."""
    api.put("tasknetworkpolicies", "deep", "airflow", spec={"egress": [], "x": nested(levels)})
    api.put("tasknetworkpolicies", "second", "airflow", spec={"egress": []})
    reading.until(lambda: "second" in reading.enforced()[1])
    assert any("deep" in str(problem) for problem in reading.source.problems)
    assert reading.enforced()[1] == {"wall", "second"}
    reading.source.close()
    reading.again()
    reading.until(lambda: reading.well() and reading.enforced()[1] == {"wall", "second"})
    assert any("deep" in str(problem) for problem in reading.source.problems)


def test_a_kind_that_is_not_served_leaves_a_new_agent_what_was_in_force(api: FakeApi, reading: Reading) -> None:
    reading.source.close()
    with api.lying(unserved):
        reading.again()
        reading.until(lambda: reading.cluster.complete)
        assert reading.enforced() == EVERYTHING
        assert reading.source.stale_seconds() > 0
        reading.until(lambda: "TaskNetworkPolicy" in reading.source.trouble())
    api.delete("tasknetworkpolicies", "wall", "airflow")
    reading.until(lambda: reading.well() and reading.enforced()[1] == set())


def test_a_cluster_without_our_kinds_is_no_trouble(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.lie = unserved
        reading = Reading(api, tmp_path)
        reading.until(reading.well)
        api.lie = lambda _: False
        api.put("namespaces", "airflow")
        api.put("tasknetworkpolicies", "late", "airflow", spec={"egress": []})
        reading.until(lambda: reading.enforced()[1] == {"late"})
        reading.source.close()


def emptied(request: Request) -> bool:
    return of_lists(lambda r: {**r.api.listing(r.plural), "items": []})(request)


def test_an_empty_list_is_believed_when_it_comes_again(api: FakeApi, reading: Reading) -> None:
    """As when all policies were deleted while nobody watched; but never of kinds that every cluster has."""
    began = time.monotonic()
    with api.lying(emptied):
        reading.until(lambda: time.monotonic() - began > 1.1)  # an outage after which lists are read
        reading.until(lambda: reading.enforced()[1] == set())
        assert reading.source.stale_seconds() > 0
        assert (reading.enforced()[3], reading.enforced()[4]) == ({"airflow"}, {"kubernetes"})
    reading.until(reading.well)
    api.cut()  # each watch ends after some minutes, and what was doubted is then listed again
    reading.until(lambda: reading.well() and reading.enforced() == EVERYTHING)


def test_one_empty_list_is_not(api: FakeApi, reading: Reading) -> None:
    told: list[bool] = []

    def once(request: Request) -> bool:
        """A list is due, and is empty."""
        if request.plural != "tasknetworkpolicies" or told == [True, False]:
            return False
        told.append(request.watches)
        empty = {**api.listing(request.plural), "items": []}
        return request.refuse(410) if request.watches else request.reply(empty)

    with api.lying(once):
        reading.until(lambda: told == [True, False])
        reading.until(reading.well)
        assert reading.enforced() == EVERYTHING


@pytest.mark.parametrize(
    "watched", [status(403), status(500), hang, ended_streams], ids=["403", "500", "hang", "end"]
)
def test_where_only_watches_fail_lists_bring_the_news(
    api: FakeApi, reading: Reading, watched: Callable[[Request], bool]
) -> None:
    with api.lying(lambda request: request.watches and watched(request)):
        reading.until(lambda: reading.source.stale_seconds() > 0)
        api.put("tasknetworkpolicies", "second", "airflow", spec={"egress": []})
        reading.until(lambda: "second" in reading.enforced()[1])


def test_a_restored_backup_is_the_truth_though_its_versions_are_lower(api: FakeApi, reading: Reading) -> None:
    saved = api.saved()
    api.put("tasknetworkpolicies", "lost", "airflow", spec={"egress": []})
    for _ in range(50):
        api.put("nodes", "n1")
    reading.until(lambda: reading.enforced()[1] == {"wall", "lost"})
    with api.lying(status(503)):
        time.sleep(0.3)
        api.restore(saved)
        api.put("tasknetworkpolicies", "after", "airflow", spec={"egress": []})
    reading.until(lambda: reading.enforced()[1] == {"wall", "after"})
    reading.until(reading.well)


def test_even_when_its_versions_have_passed_the_known_ones(api: FakeApi, reading: Reading) -> None:
    saved = api.saved()
    api.put("tasknetworkpolicies", "lost", "airflow", spec={"egress": []})
    reading.until(lambda: reading.enforced()[1] == {"wall", "lost"})
    with api.lying(status(503)):
        time.sleep(1.5)
        api.restore(saved)
        api.put("tasknetworkpolicies", "after", "airflow", spec={"egress": []})
        for _ in range(50):
            api.put("nodes", "n1")
    reading.until(lambda: reading.enforced()[1] == {"wall", "after"})


@pytest.mark.parametrize(
    ("why", "version"),
    [
        (ApiStatus("Timeout", causes=frozenset({"ResourceVersionTooLarge"})), ""),
        (ApiStatus("Timeout", causes=frozenset({"UnexpectedServerResponse"})), "9"),
        (ApiStatus(), "9"),
    ],
)
def test_a_server_that_is_behind_our_version_is_listed_anew(reading: Reading, why: ApiStatus, version: str) -> None:
    """By the Status' cause: the words of its message are another's in each release."""
    pods = Resource("Pod", "v1", "pods")
    found = Informer(reading.source.api, Reflector(pods, parse_object, version="9"), lambda *_: None, Event())
    found._failed(ApiError("Too large resource version: 9, current: 3", 504, why))
    assert found.reflector.version == version
