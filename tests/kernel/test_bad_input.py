"""Bad input, one at a time, under a running agent: one clear error each, and what was enforced stays (P17)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.app.agent import Agent
from agent.cli import main
from agent.kernel.datapath import detach
from agent.kernel.pins import is_bpffs
from lab.node import Pod, ScratchNode
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp
from tests.kernel.test_agent import Machine, pod_manifest, policy

ALLOWED = ("192.0.2.60", 8101)
DENIED = ("192.0.2.60", 8102)

HEAD = "apiVersion: dagwall.io/v1alpha1\nkind: TaskNetworkPolicy\nmetadata: {name: x, namespace: airflow}\nspec:\n"
BAD = {
    "broken YAML": ("a: [", "YAML"),
    "no object": ("just text", "must be an object"),
    "unknown field": (f"{HEAD}  egres: []", "unknown field 'egres'"),
    "host bits": (f"{HEAD}  egress: [{{to: [{{cidr: 10.0.0.1/8}}]}}]", "10.0.0.0/8"),
    "no CIDR": (f"{HEAD}  egress: [{{to: [{{cidr: 10.0.0.0/33}}]}}]", "spec.egress[0].to[0].cidr"),
    "port 0": (f"{HEAD}  egress: [{{ports: [{{port: 0}}]}}]", "spec.egress[0].ports[0].port"),
    "port 70000": (f"{HEAD}  egress: [{{ports: [{{port: 70000}}]}}]", "65535"),
    "range backwards": (f"{HEAD}  egress: [{{ports: [{{port: 90, endPort: 80}}]}}]", "endPort"),
    "empty to": (f"{HEAD}  egress: [{{to: []}}]", "spec.egress[0].to"),
    "unknown entity": (f"{HEAD}  egress: [{{to: [{{entity: moon}}]}}]", "must be one of"),
    "names": (f"{HEAD}  egress: [{{to: [{{fqdn: a..example}}]}}]", "is no DNS name"),
    "tls": (f"{HEAD}  egress: [{{tls: {{serverNames: [a.example]}}}}]", "needs ports, of TCP"),
    "http": (f"{HEAD}  egress: [{{http: [{{methods: [GET]}}]}}]", "needs ports, of TCP"),
    "pod without uid": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: airflow}\nspec: {}",
        "metadata.uid",
    ),
    "1 MB of annotations": (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: airflow, uid: 1-2, "
        f"annotations: {{a: {'x' * (1 << 20)}}}}}\nspec: {{}}",
        "annotations",
    ),
    "unknown kind": ("apiVersion: dagwall.io/v1alpha1\nkind: TaskNetwork\nmetadata: {name: s}", "TaskNetwork"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Agent, Pod]]:
    with ScratchNode() as node:
        machine, pod = Machine(node, tmp_path_factory.mktemp("machine")), node.add_pod()
        node.serve(*ALLOWED)
        node.serve(*DENIED)
        machine.write("pod.yaml", pod_manifest("p", pod.uid, pod.ipv4))
        machine.write("policy.yaml", policy("good", "etl", f"{ALLOWED[0]}/32", ALLOWED[1]))
        try:
            with machine.agent() as agent:
                yield machine, agent, pod
        finally:
            detach(node.bpffs / "dagwall")


def errors(agent: Agent) -> list[str]:
    return [str(problem) for problem in agent.node.parts.source.problems]


def still_enforced(pod: Pod) -> bool:
    return pod.run(tcp, *ALLOWED) == "ok" and pod.run(tcp, *DENIED) in ("EACCES", "EPERM")


@pytest.mark.parametrize("case", BAD)
def test_one_error_each_and_the_last_valid_state_stays(running: tuple[Machine, Agent, Pod], case: str) -> None:
    machine, agent, pod = running
    text, said = BAD[case]
    machine.write("bad.yaml", text)
    assert eventually(lambda: len(errors(agent)) == 1), errors(agent)
    (error,) = errors(agent)
    assert "bad.yaml" in error
    assert said in error
    assert len(error) < 500
    assert still_enforced(pod)
    (machine.files / "bad.yaml").unlink()
    assert eventually(lambda: not errors(agent))


@pytest.mark.parametrize("case", ["broken YAML", "host bits", "unknown field"])
def test_a_bad_edit_of_what_is_in_force_changes_nothing(running: tuple[Machine, Agent, Pod], case: str) -> None:
    machine, agent, pod = running
    good = (machine.files / "policy.yaml").read_text(encoding="utf-8")
    machine.write("policy.yaml", BAD[case][0].replace("name: x", "name: good"))
    assert eventually(lambda: len(errors(agent)) == 1)
    time.sleep(0.3)
    assert still_enforced(pod)
    machine.write("policy.yaml", good)
    assert eventually(lambda: not errors(agent))
    assert still_enforced(pod)


def test_two_policies_of_one_name_are_one_error_that_names_both_files(running: tuple[Machine, Agent, Pod]) -> None:
    machine, agent, pod = running
    machine.write("z-again.yaml", policy("good", "etl", f"{DENIED[0]}/32", DENIED[1]))
    assert eventually(lambda: len(errors(agent)) == 1)
    assert all(name in errors(agent)[0] for name in ("policy.yaml", "z-again.yaml"))
    assert still_enforced(pod)
    (machine.files / "z-again.yaml").unlink()
    assert eventually(lambda: not errors(agent))


def test_a_file_beyond_reason_is_refused_by_its_size(running: tuple[Machine, Agent, Pod], tmp_path: Path) -> None:
    machine, agent, pod = running
    big = tmp_path / "big.yaml"
    big.write_text("a: " + "x" * (9 << 20))
    big.rename(machine.files / "big.yaml")
    assert eventually(lambda: len(errors(agent)) == 1)
    assert "big.yaml" in errors(agent)[0]
    assert still_enforced(pod)
    (machine.files / "big.yaml").unlink()
    assert eventually(lambda: not errors(agent))


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, words)])


def said_last(result: Result) -> tuple[int, str]:
    """Events may come before: threads of the agent have begun."""
    return result.exit_code, result.output.splitlines()[-1]


def test_a_file_where_a_folder_should_be_names_the_option(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    words = ("--files", tmp_path, "--metrics", "", "--socket", tmp_path / "s")
    result = run(*words, "--state", file, "--pins", tmp_path / "none")
    assert said_last(result) == (1, f"Error: --state: {file}: is no folder")
    result = run(*words, "--state", file / "below", "--pins", tmp_path / "none")
    assert said_last(result) == (1, f"Error: --state: {file / 'below'}: Not a directory")
    result = run(*words, "--state", tmp_path / "state", "--pins", file / "below" / "dagwall")
    assert "--pins: no bpffs at" in result.output
    assert "Not a directory" in result.output


def test_no_bpffs_is_mounted_over_files(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    words = ("--files", tmp_path, "--metrics", "", "--socket", tmp_path / "s", "--state", tmp_path / "state")
    result = run(*words, "--pins", tmp_path / "dagwall")
    assert "would hide" in result.output
    assert not is_bpffs(tmp_path)
    assert (tmp_path / "precious").exists()
