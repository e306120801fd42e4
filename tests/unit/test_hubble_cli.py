"""The golden flow log and a server, read by the stock Hubble CLI: HUBBLE=path/to/hubble pytest THIS_FILE.

The CLI is a program of its own (github.com/cilium/hubble) that the project neither ships nor fetches, so that these
tests are skipped without it. The lines themselves are held by test_outputs_hubble.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.binding import Contradiction
from agent.outputs.hubble import MAX_LINE_BYTES, lines_of
from agent.outputs.hubble_ends import identity_number
from agent.outputs.observer.server import HubbleServer
from tests.unit.seen import STATE, denial, endpoint
from tests.unit.test_outputs_hubble import GOLDEN, SHAPES, TASK

HUBBLE = os.environ.get("HUBBLE", "")
if not HUBBLE:
    pytest.skip("HUBBLE names no Hubble CLI", allow_module_level=True)

Line = dict[str, Any]
WRITTEN: list[Line] = [json.loads(line)["flow"] for line in GOLDEN.read_text(encoding="ascii").splitlines()]


def observe(*flags: str, file: Path = GOLDEN) -> list[str]:
    """What it prints; on a field that it does not know it would print a warning."""
    command = [HUBBLE, "observe", "--input-file", str(file), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("form", ["json", "jsonpb"])
def test_what_it_writes_is_what_it_read(form: str) -> None:
    """Ours in `extensions` among it."""
    read = [json.loads(line)["flow"] for line in observe("-o", form)]
    for line, written in zip(read, WRITTEN, strict=True):
        line["time"] = line["time"].replace("00Z", "00000Z")  # it writes as few digits as it may
        assert _filled(line) == _filled(written)


def _filled(value: Any) -> Any:
    """Without what protobuf leaves out as well."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each not in ("", 0, False, [], {})}
    return [_filled(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("form", "lines"), [("compact", 1), ("dict", 7), ("table", 1)])
@pytest.mark.parametrize("flags", [(), ("--numeric",), ("--print-policy-names",), ("--print-node-name",)])
def test_its_tables_have_every_line(form: str, lines: int, flags: tuple[str, ...]) -> None:
    printed = observe("-o", form, *flags)
    assert len(printed) >= lines * len(WRITTEN) - (form == "dict")
    text = "\n".join(printed)
    assert "Success" not in text, "the name of drop reason 0"
    assert "N/A" not in text
    for written in WRITTEN:
        assert written["Summary"] in text


def test_numbers_are_printed_of_both_ends() -> None:
    for line, written in zip(observe("--numeric"), WRITTEN, strict=True):
        for end in ("source", "destination"):
            assert written["IP"].get(end, "") in line


def test_policies_are_named() -> None:
    flags = ("--verdict", "DROPPED", "--type", "policy-verdict", "--print-policy-names")
    printed = observe(*flags)
    assert len(printed) == sum(w["verdict"] == "DROPPED" and w["event_type"]["type"] == 5 for w in WRITTEN)
    (named,) = [line for line in printed if " BY " in line]
    assert "DENIED BY no-metadata (ClusterTaskNetworkPolicy)" in named


FILTERS: list[tuple[str, Callable[[Line], bool]]] = [
    ("--to-pod airflow/sales-extract-x1", lambda w: w["destination"].get("pod_name") == "sales-extract-x1"),
    ("--from-pod airflow/sales", lambda w: w["source"].get("pod_name") == "sales-extract-x1"),
    ("--pod finance-load-x1 -n airflow", lambda _: True),
    ("--to-namespace db", lambda w: w["destination"].get("namespace") == "db"),
    ("--to-service db/postgres", lambda w: w.get("destination_service", {}).get("name") == "postgres"),
    ("--workload DAG/sales", lambda w: "sales-extract-x1" in (_pod(w, "source"), _pod(w, "destination"))),
    (f"--to-identity {identity_number(TASK)}", lambda w: _pod(w, "destination") == "sales-extract-x1"),
    ("--to-identity kube-apiserver", lambda w: w["destination"]["identity"] == 7),
    ("--identity remote-node", lambda w: w["destination"]["identity"] == 6),
    ("--from-identity host", lambda w: w["source"]["identity"] == 1),
    ("--to-label reserved:world", lambda w: "reserved:world" in w["destination"]["labels"]),
    ("--label k8s:dag_id=finance", lambda _: True),
    ("--cluster prod --node-name prod/n1", lambda _: True),
    ("--ip 10.0.0.7", lambda w: "10.0.0.7" in w["IP"].values()),
    ("-6", lambda w: w["IP"]["ipVersion"] == "IPv6"),
    ("--to-port 5432", lambda w: _port(w) == 5432),
    ("--protocol udp", lambda w: "UDP" in w["l4"]),
    ("--protocol icmp", lambda w: "ICMPv4" in w["l4"]),
    ("--protocol igmp", lambda w: "IGMP" in w["l4"]),
    ("--tcp-flags SYN", lambda w: "flags" in w["l4"].get("TCP", {})),
    ("--traffic-direction ingress", lambda w: w["traffic_direction"] == "INGRESS"),
    ("--verdict AUDIT", lambda w: w["verdict"] == "AUDIT"),
    ("--verdict FORWARDED", lambda w: w["verdict"] == "FORWARDED"),
    ("--drop-reason-desc POLICY_DENY", lambda w: w.get("drop_reason_desc") == "POLICY_DENY"),
    ("--type drop", lambda w: w["event_type"]["type"] == 1),
    ("--type trace:from-endpoint", lambda w: w["event_type"] == {"type": 4, "sub_type": 5}),
    (f"--uuid {WRITTEN[0]['uuid']}", lambda w: w["uuid"] == WRITTEN[0]["uuid"]),
    ("--http-status 200", lambda _: False),
]


def _pod(line: Line, end: str) -> str:
    return str(line[end].get("pod_name", ""))


def _port(line: Line) -> int:
    return max((int(each.get("destination_port", 0)) for each in line["l4"].values()), default=0)


@pytest.mark.parametrize(("flags", "meant"), FILTERS, ids=[flags for flags, _ in FILTERS])
def test_its_filters_find_what_they_mean(flags: str, meant: Callable[[Line], bool]) -> None:
    found = [json.loads(line)["flow"]["uuid"] for line in observe("-o", "json", *flags.split())]
    assert found == [written["uuid"] for written in WRITTEN if meant(written)]


def test_it_reads_the_longest_line(tmp_path: Path) -> None:
    facts = endpoint("d" * 250, "t" * 250)
    for size in range(20_000, 40_000, 500):  # twice in the summary and in `extensions`
        seen = replace(denial(), endpoint=facts, contradiction=Contradiction(facts.identity, "x" * size, keeps=True))
        if len(lines_of(seen, "n1", "0.1.0")[0]) > MAX_LINE_BYTES - 2000:
            break
    lines = lines_of(seen, "n1", "0.1.0")
    assert MAX_LINE_BYTES - 2000 < len(lines[0]) <= MAX_LINE_BYTES
    (tmp_path / "long").write_bytes(b"".join(lines))
    assert len(observe(file=tmp_path / "long")) == len(lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent's services with the golden lines, as a value for --server."""
    path = tmp_path_factory.mktemp("hubble") / "h.sock"
    found = HubbleServer("n1", socket=path, flows=100)
    found.start()
    found.report(STATE)
    for seen in SHAPES.values():
        found.flows([replace(seen, time=1.5)])  # type: ignore[list-item]
    yield f"unix://{path}"
    found.stop()


def ask(server: str, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [HUBBLE, "--server", server, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_status_and_lists_over_the_wire(server: str) -> None:
    status = ask(server, "status")
    assert "Healthcheck (via " in status
    assert ": Ok" in status
    assert f"Current/Max Flows: {len(WRITTEN)}/100" in status
    assert "default/n1   Connected" in ask(server, "list", "nodes")
    assert ask(server, "list", "namespaces").split() == ["NAMESPACE", "airflow"]
    assert ask(server, "observe", "agent-events") == ""


@pytest.mark.parametrize(("flags", "meant"), [each for each in FILTERS if "--uuid" not in each[0]])
def test_its_filters_find_the_same_over_the_wire(server: str, flags: str, meant: Callable[[Line], bool]) -> None:
    words = ("observe", "--first", "100", "-o", "json", *flags.split())
    if "--http-status" in flags:
        assert "filter http_status_code: dagwall's flows have no such value" in ask(server, *words, code=1)
        return
    found = [json.loads(line)["flow"]["Summary"] for line in ask(server, *words).splitlines()]
    assert found == [written["Summary"] for written in WRITTEN if meant(written)]


@pytest.mark.parametrize("form", ["compact", "dict", "table"])
def test_its_tables_over_the_wire_have_every_line(server: str, form: str) -> None:
    printed = ask(server, "observe", "--first", "100", "-o", form, "--print-policy-names")
    assert "N/A" not in printed
    for written in WRITTEN:
        assert written["Summary"] in printed
