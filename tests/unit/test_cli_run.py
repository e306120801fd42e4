"""Flags and the configuration file of `dagwall run`: what they become, and what is refused with which words."""

from __future__ import annotations

import os
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.cli import main
from agent.cli.run import run
from agent.cli.settings import METADATA, read_map_entries, read_settings
from agent.config import Config
from agent.errors import InvalidObject
from agent.kernel.pins import Pins
from agent.model.cluster import Cluster, Destination, Settings
from agent.model.policy import CidrPeer, DefaultPosture, Entity, PortMatch, ServicePeer
from agent.node.state import StateFolder
from agent.outputs.api import ApiServer
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent

FILE = """\
cluster: prod
defaultPosture: deny
posture: audit
baseline: [dns]
managedNamespaces: [airflow]
podCidrs: [10.244.0.0/16]
serviceCidrs: [10.96.0.0/12]
metadata: [169.254.169.254]
dns: [192.0.2.53]
dnsServices: [kube-system/coredns]
airflow:
- {service: {namespace: airflow, name: api-server}}
- {cidr: 203.0.113.7/32, ports: [{port: 5432}]}
"""


def invoke(*words: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["run", *(str(word) for word in words)])


def test_defaults_are_the_model_s() -> None:
    read = read_settings(None, {})
    assert read.settings == Settings(metadata=METADATA)
    assert read.managed_namespaces == frozenset()
    assert ip_address("fd00:ec2::254") in METADATA


def test_a_file_says_everything(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FILE)
    read = read_settings(file, {})
    assert read.managed_namespaces == {"airflow"}
    assert read.settings == Settings(
        cluster="prod",
        default_posture=DefaultPosture.DENY,
        audit_everything=True,
        baseline=(Entity.DNS,),
        pod_ranges=(ip_network("10.244.0.0/16"),),
        service_ranges=(ip_network("10.96.0.0/12"),),
        metadata=(ip_address("169.254.169.254"),),
        dns=tuple(map(ip_address, ("169.254.20.10", "169.254.25.10", "192.0.2.53"))),
        dns_services=(("kube-system", "coredns"),),
        airflow=(
            Destination(ServicePeer("airflow", "api-server")),
            Destination(CidrPeer(ip_network("203.0.113.7/32")), (PortMatch(6, 5432),)),
        ),
    )


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FILE)
    flags = {"podCidrs": ("10.0.0.0/8",), "baseline": "none", "posture": "enforce", "cluster": None}
    settings = read_settings(file, flags).settings
    assert settings.pod_ranges == (ip_network("10.0.0.0/8"),)
    assert (settings.baseline, settings.audit_everything, settings.cluster) == ((), False, "prod")


def test_network_policies_count_by_flag_or_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("networkPolicy: true\n")
    assert not read_settings(None, {"networkPolicy": False}).settings.network_policy
    assert read_settings(None, {"networkPolicy": True}).settings.network_policy
    assert read_settings(file, {"networkPolicy": False}).settings.network_policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("airflw: []", "unknown field 'airflw'; allowed: cluster, .* did you mean 'airflow'"),
        ("defaultPosture: open", "defaultPosture: must be one of observe, deny, not 'open'"),
        ("airflow: [{entity: world}]", "airflow.0.: unknown field 'entity'"),
        ("airflow: [{cidr: 10.0.0.1/8}]", "airflow.0..cidr: '10.0.0.1/8' has host bits set"),
        ("dns: [here]", "dns.0.: 'here' is no IP address"),
        ("networkPolicy: maybe", "networkPolicy: must be true or false, not 'maybe'"),
        ("dnsServices: [coredns]", "dnsServices.0.: must be NAMESPACE/NAME"),
        ("baseline: dns,foo", "baseline: must be none, or entities"),
        ("[]", "must be an object"),
        ("a: 1\n---\nb: 2", "must be one YAML document, not 2"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_file_is_refused_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InvalidObject, match=message) as caught:
        read_settings(file, {})
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kubeconfig", "/nowhere"), "File '/nowhere' does not exist"),
        (("--files", "/nowhere"), "Directory '/nowhere' does not exist"),
        (("--pod-cidr", "10.0.0"), "--pod-cidr: [0]: '10.0.0' is no CIDR"),
        (("--managed-namespace", ""), "--managed-namespace: [0]: must not be empty"),
        (("--baseline", "dns,foo"), "--baseline: must be none, or entities separated by commas, of node, cluster"),
        (("--metrics", "9990"), "'--metrics': must be HOST:PORT such as 127.0.0.1:9990"),
        (("--map-entries", "flow=1"), "'--map-entries': must be NAME=N with NAME one of denials, endpoints"),
        (("--map-entries", "flows=1"), "flows must have 16 to 16777216 entries"),
        (("--map-entries", "events=5000"), "a power of two from 4096"),
        (("--default-posture", "open"), "'open' is not one of 'observe', 'deny'"),
        (("--on-agent-loss", "maybe"), "'maybe' is not one of 'allow', 'deny'"),
        (("--loss-grace", "0"), "0.0 is not in the range"),
        (("--flow-quota", "many"), "'many' is not a valid integer"),
        (("--cgroup-root", "../up"), "--cgroup-root: must be a path below the cgroup mount"),
        (("--config", "/nowhere.yaml"), "/nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_bad_flags_are_one_clear_error(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    given = words if words[0] in ("--files", "--kubeconfig") else ("--files", str(tmp_path), *words)
    result = invoke(*given)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_every_setting_has_a_flag() -> None:
    names = {parameter.name for parameter in run.params}
    renamed = {"managed_namespaces": "managedNamespaces"}
    assert {renamed.get(field.name, field.name) for field in fields(Config)} <= names


def test_flags_come_from_the_environment_too(tmp_path: Path) -> None:
    result = invoke(DAGWALL_RUN_FILES=str(tmp_path), DAGWALL_RUN_METRICS="9990")
    assert "must be HOST:PORT" in result.output


def test_sizes_of_maps() -> None:
    assert read_map_entries(("flows=1024", "events=65536")) == {"flows": 1024, "events": 65536}


def test_a_taken_address_ends_the_start(tmp_path: Path) -> None:
    result = invoke(
        "--files", tmp_path, "--metrics", "192.0.2.1:1", "--socket", tmp_path / "s", "--state", tmp_path / "state"
    )
    assert result.exit_code == 1
    assert "serve metrics on 192.0.2.1:1: " in result.output
    assert not (tmp_path / "s").exists()


def test_an_agent_that_lives_on_the_socket_is_named_before_an_address_is(tmp_path: Path) -> None:
    """192.0.2.1 cannot be bound: that would be the other thing to say."""
    living = ApiServer(tmp_path / "s", Questions(lambda: None, Cluster, Recent()))
    living.start()
    try:
        result = invoke(
            "--files", tmp_path, "--metrics", "192.0.2.1:1", "--socket", tmp_path / "s", "--pins", tmp_path / "none"
        )
    finally:
        living.stop()
    assert (result.exit_code, result.output) == (
        1,
        f"Error: {tmp_path / 's'}: another agent answers on this socket\n",
    )


def test_an_agent_that_holds_the_pins_is_named_before_an_address_is(tmp_path: Path) -> None:
    held = Pins(tmp_path / "pins").lock()
    words = ("--files", tmp_path, "--metrics", "192.0.2.1:1", "--socket", tmp_path / "s", "--pins", tmp_path / "pins")
    result = invoke(*words)
    os.close(held)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: --pins {tmp_path / 'pins'}: another agent enforces by these pins")
    assert "serve metrics on" in invoke(*words).output


def test_an_agent_that_owns_the_state_folder_is_named_before_an_address_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    owner = StateFolder(state)
    words = ("--files", tmp_path, "--metrics", "192.0.2.1:1", "--socket", tmp_path / "s", "--pins", tmp_path / "none")
    result = invoke(*words, "--state", state)
    owner.close()
    assert (result.exit_code, result.output) == (
        1, f"Error: --state: {state}: another agent owns this state folder\n"
    )  # fmt: skip
    assert "serve metrics on" in invoke(*words, "--state", state).output


def test_detach_asks(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["detach", "--pins", str(tmp_path)])
    assert result.exit_code == 2
    assert "ends ALL enforcement" in result.output
    assert "give --yes" in result.output


def test_detach_says_what_it_took_away(tmp_path: Path) -> None:
    words = ["detach", "--pins", str(tmp_path / "none"), "--socket", str(tmp_path / "s"), "--yes", "-o", "json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert '"links": 0' in result.output


def test_the_kubelet_s_probes_go_where_nobody_else_does() -> None:
    """A pod that may reach the metrics could otherwise have the agent killed by its own liveness probe."""
    documents = yaml.safe_load_all((Path(__file__).parents[2] / "deploy/base/daemonset.yaml").read_text())
    (found,) = [document for document in documents if document["kind"] == "DaemonSet"]
    (agent,) = found["spec"]["template"]["spec"]["containers"]
    (address,) = [arg.removeprefix("--probes=") for arg in agent["args"] if arg.startswith("--probes=")]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = agent[probe]["httpGet"]
        assert f"{get['host']}:{get['port']}" == address
    assert address.startswith("127.0.0.1:")
