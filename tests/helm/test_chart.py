"""The chart's objects are those of `kubectl apply`, changed by nothing but the values (`make helm`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import __version__
from agent.cli.run import run, take_policy_flags
from agent.cli.settings import PolicySettings, read_settings
from tests.helm.chart import (
    CHART,
    ROOT,
    VALUES,
    Objects,
    agent_of,
    by_name,
    helm,
    rendered,
    template,
    tools,
    values_file,
)

DEPLOY = ROOT / "deploy"
FILES = ("startup-taint", "admission-policy", "podmonitor", "prometheus/prometheusrule", "hubble-certificates")
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def objects_of(*paths: Path) -> Objects:
    return by_name("\n---\n".join(path.read_text(encoding="utf-8") for path in paths))


def without_namespace(objects: Objects) -> Objects:
    """Helm makes the release's own namespace, or finds it."""
    return {key: obj for key, obj in objects.items() if obj["kind"] != "Namespace"}


def parsed(agent: dict[str, Any]) -> dict[str, Any]:
    """The agent's arguments as its own command line reads them."""
    command, *words = agent["args"]
    assert command == "run"
    return dict(run.make_context("run", words, resilient_parsing=False).params)


def settings(agent: dict[str, Any], config: Path | None = None) -> PolicySettings:
    return read_settings(config, take_policy_flags(parsed(agent)))


@pytest.mark.parametrize("values", [None, *sorted(path.stem for path in VALUES.glob("*.yaml"))], ids=str)
def test_helm_lint(values: str | None) -> None:
    done = helm("lint", "--strict", str(CHART), *([values_file(values)] if values else []))
    assert done.returncode == 0, done.stdout + done.stderr


def test_by_default_it_is_daemonset_yaml() -> None:
    assert rendered() == without_namespace(objects_of(ROOT / "daemonset.yaml"))


def test_a_namespace_of_its_own_is_the_one_of_daemonset_yaml() -> None:
    words = ("--set=namespace.create=true,namespace.name=dagwall-system",)
    assert rendered(*words, namespace="default") == objects_of(ROOT / "daemonset.yaml")


@pytest.mark.parametrize("overlay", ["audit", "zero-trust", "hubble-relay"])
def test_with_an_overlays_values_it_is_the_overlay(overlay: str) -> None:
    folder = DEPLOY / "overlays" / overlay
    done = subprocess.run(
        [str(tools() / "kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    assert rendered(values_file(overlay)) == without_namespace(by_name(done.stdout))


def test_what_kubectl_takes_from_other_files_is_the_same() -> None:
    wanted = objects_of(ROOT / "daemonset.yaml", *(DEPLOY / f"{name}.yaml" for name in FILES))
    assert rendered(values_file("files")) == without_namespace(wanted)


def test_detach_takes_the_agents_place() -> None:
    wanted = without_namespace(objects_of(ROOT / "daemonset.yaml", DEPLOY / "detach.yaml"))
    del wanted[("DaemonSet", "dagwall-agent")]
    assert rendered("--set=detach=true") == wanted


def test_dashboards_are_grafanas_files() -> None:
    found = rendered("--set=dashboards.enabled=true")
    for path in (DEPLOY / "grafana").glob("*.json"):
        board = found[("ConfigMap", f"dagwall-dashboard-{path.stem}")]
        assert board["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert json.loads(board["data"][f"dagwall-{path.name}"]) == json.loads(path.read_text())


def test_defaults_are_the_agents_own() -> None:
    policy, found = DEFAULTS["policy"], settings(agent_of(rendered())).settings
    assert ("audit" if found.audit_everything else "enforce") == policy["posture"]
    assert found.default_posture.value == policy["defaultPosture"]
    assert [entity.value for entity in found.baseline] == policy["baseline"]
    assert (found.network_policy, found.cluster) == (policy["networkPolicy"], DEFAULTS["cluster"])
    flags = parsed(agent_of(rendered()))
    assert (flags["on_agent_loss"], flags["audit_files"]) == (policy["onAgentLoss"], DEFAULTS["auditLog"]["files"])
    assert flags["audit_log"] is flags["flow_log"] is None


def test_every_value_reaches_the_agent(tmp_path: Path) -> None:
    objects = rendered(values_file("everything"))
    agent, wanted = agent_of(objects), yaml.safe_load((VALUES / "everything.yaml").read_text())
    (tmp_path / "dagwall.yaml").write_text(objects[("ConfigMap", "dagwall-agent")]["data"]["dagwall.yaml"])
    read = settings(agent, tmp_path / "dagwall.yaml")
    assert read.settings.audit_everything
    assert read.settings.network_policy
    assert read.settings.default_posture.value == "deny"
    assert [entity.value for entity in read.settings.baseline] == ["dns"]
    assert [str(one) for one in read.settings.pod_ranges] == wanted["policy"]["podCidrs"]
    assert [str(one) for one in read.settings.service_ranges] == wanted["policy"]["serviceCidrs"]
    assert (read.settings.cluster, len(read.settings.airflow), len(read.settings.metadata)) == ("blue", 1, 1)
    assert read.managed_namespaces == {"airflow", "tasks"}
    flags = parsed(agent)
    assert (flags["on_agent_loss"], flags["cgroup_roots"]) == ("deny", tuple(wanted["cgroupRoots"]))
    assert (flags["metrics"], flags["probes"]) == ("$(NODE_ADDRESS):19990", "127.0.0.1:19989")
    assert (flags["hubble_listen"], flags["log_level"]) == ("$(NODE_ADDRESS):14244", "debug")
    assert (flags["audit_files"], flags["map_entries"]) == (4, {"events": 65536})
    assert {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"} in agent["env"]
    assert {port["name"]: port["containerPort"] for port in agent["ports"]} == {"metrics": 19990, "hubble": 14244}
    assert {agent[probe]["httpGet"]["port"] for probe in agent if probe.endswith("Probe")} == {19989}


def test_ports_may_change_places() -> None:
    agent = agent_of(rendered("--set=metrics.port=9989,probes.port=9990"))
    flags = parsed(agent)
    assert (flags["metrics"], flags["probes"]) == ("$(NODE_ADDRESS):9989", "127.0.0.1:9990")
    assert agent["livenessProbe"]["httpGet"]["port"] == 9990


def test_every_file_that_a_flag_names_is_mounted() -> None:
    objects = rendered(values_file("everything"))
    agent = agent_of(objects)
    folders = {mount["mountPath"]: mount for mount in agent["volumeMounts"]}
    volumes = {
        one["name"]: one for one in objects[("DaemonSet", "dagwall-agent")]["spec"]["template"]["spec"]["volumes"]
    }
    files = {Path(arg.partition("=")[2]) for arg in agent["args"] if "=/" in arg}
    assert {str(path.parent) for path in files} == {
        "/etc/dagwall/config", "/etc/dagwall/audit", "/etc/dagwall/hubble", "/var/log/wall"
    }  # fmt: skip
    sources = {str(path.parent): volumes[folders[str(path.parent)]["name"]] for path in files}
    assert sources["/etc/dagwall/audit"]["secret"] == {"secretName": "audit-key", "defaultMode": 0o400}
    assert sources["/etc/dagwall/hubble"]["secret"] == {"secretName": "agents", "defaultMode": 0o400}
    assert sources["/etc/dagwall/config"]["configMap"] == {"name": "dagwall-agent"}
    assert sources["/var/log/wall"]["hostPath"]["path"] == "/var/log/wall"
    assert "readOnly" not in folders["/var/log/wall"]


def test_every_value_reaches_the_pods() -> None:
    objects, wanted = rendered(values_file("everything")), yaml.safe_load((VALUES / "everything.yaml").read_text())
    daemonset = objects[("DaemonSet", "dagwall-agent")]["spec"]
    template_, pod = daemonset["template"]["metadata"], daemonset["template"]["spec"]
    assert daemonset["updateStrategy"] == wanted["updateStrategy"]
    for name in ("nodeSelector", "affinity", "tolerations", "priorityClassName", "imagePullSecrets"):
        assert pod[name] == wanted[name]
    images = {container["image"] for container in pod["initContainers"] + pod["containers"]}
    assert images == {f"{wanted['image']['repository']}@{wanted['image']['digest']}"}
    assert {container["imagePullPolicy"] for container in pod["initContainers"] + pod["containers"]} == {
        "IfNotPresent"
    }
    assert pod["containers"][0]["resources"] == wanted["resources"]
    assert template_["labels"]["team"] == "security"
    assert daemonset["selector"]["matchLabels"].items() <= template_["labels"].items(), (
        "no label of yours is one of ours"
    )
    assert template_["annotations"]["example.org/owner"] == "security"
    relay = objects[("Deployment", "hubble-relay")]["spec"]["template"]["spec"]
    assert relay["containers"][0]["image"] == "registry.example/hubble-relay:v1.19.4"
    assert relay["containers"][0]["resources"]["requests"] == {"cpu": "10m", "memory": "64Mi"}, "merged"
    assert relay["tolerations"] == wanted["hubble"]["relay"]["tolerations"]
    assert [volume["secret"]["secretName"] for volume in relay["volumes"] if "secret" in volume] == ["relay"]
    peer = objects[("Service", "hubble-peer")]["spec"]["ports"]
    assert [port["targetPort"] for port in peer] == [14244]
    ui = objects[("Deployment", "hubble-ui")]["spec"]["template"]["spec"]
    assert ["resources" in container for container in ui["containers"]] == [False, True]
    assert objects[("PodMonitor", "dagwall-agent")]["spec"]["podMetricsEndpoints"][0]["interval"] == "15s"
    assert objects[("PodMonitor", "dagwall-agent")]["metadata"]["labels"]["release"] == "prometheus"
    binding = objects[("ValidatingAdmissionPolicyBinding", "dagwall-task-pods")]
    assert binding["spec"]["validationActions"] == ["Warn", "Audit"]


def test_a_change_of_the_configuration_starts_the_agents_again() -> None:
    def checksum(port: int) -> str:
        objects = rendered(
            f'--set-json=config={{"airflow": [{{"cidr": "10.0.0.0/8", "ports": [{{"port": {port}}}]}}]}}'
        )
        template_ = objects[("DaemonSet", "dagwall-agent")]["spec"]["template"]
        return str(template_["metadata"]["annotations"]["checksum/config"])

    assert checksum(1) == checksum(1) != checksum(2)


def test_another_namespace_and_cluster_are_named_everywhere() -> None:
    done = template(values_file("everything"), namespace="security")
    assert "dagwall-system" not in done.stdout
    objects = by_name(done.stdout)
    assert {obj["metadata"].get("namespace") for obj in objects.values()} == {None, "security", "monitoring"}
    policy = objects[("ValidatingAdmissionPolicy", "dagwall-agent-node")]["spec"]["matchConditions"][0]["expression"]
    assert policy == "request.userInfo.username == 'system:serviceaccount:security:dagwall-agent'"
    for kind, name in (("ClusterRoleBinding", "dagwall-agent"), ("RoleBinding", "dagwall-agent-scc")):
        assert {subject["namespace"] for subject in objects[(kind, name)]["subjects"]} == {"security"}
    config = yaml.safe_load(objects[("ConfigMap", "hubble-relay")]["data"]["config.yaml"])
    assert config["cluster-name"] == "blue"
    assert config["peer-service"].startswith("hubble-peer.security.svc.")
    (names,) = objects[("Certificate", "hubble-server-certs")]["spec"]["dnsNames"]
    assert names == "*.blue.hubble-grpc.cilium.io"


REFUSED: dict[str, tuple[str, str]] = {
    "a typo": ("--set=polcy.posture=audit", "additional properties 'polcy' not allowed"),
    "a typo below": ("--set=policy.postures=audit", "additional properties 'postures' not allowed"),
    "a posture": ("--set=policy.posture=loose", "at '/policy/posture': value must be one of 'enforce', 'audit'"),
    "a default": ("--set=policy.defaultPosture=allow", "value must be one of 'observe', 'deny'"),
    "an entity": ("--set=policy.baseline={internet}", "at '/policy/baseline/0'"),
    "agent loss": ("--set=policy.onAgentLoss=maybe", "at '/policy/onAgentLoss'"),
    "a namespace": ("--set=policy.managedNamespaces={Air_flow}", "at '/policy/managedNamespaces/0'"),
    "a range": ("--set=policy.podCidrs={ten}", "at '/policy/podCidrs/0'"),
    "a digest": ("--set=image.digest=latest", "at '/image/digest'"),
    "a pull policy": ("--set=image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
    "a port": ("--set=metrics.port=99999", "at '/metrics/port'"),
    "a port as text": ("--set-string=metrics.port=9990", "at '/metrics/port'"),
    "a truth": ("--set-string=detach=false", "at '/detach'"),
    "a relative folder": ("--set=logFolder=logs", "at '/logFolder'"),
    "an argument": ("--set=extraArgs={debug}", "at '/extraArgs/0'"),
    "an action": ("--set=admissionPolicy.validationActions={Log}", "at '/admissionPolicy/validationActions/0'"),
    "a cluster's name": ("--set=cluster=A b", "at '/cluster'"),
    "an image without a tag": ("--set=hubble.relay.images.relay=relay", "at '/hubble/relay/images/relay'"),
    "the release's own namespace": ("--set=namespace.create=true", "namespace.create: Helm needs the release's own"),
    "a relay without agents": ("--set=hubble.relay.enabled=true", "needs hubble.listen.enabled"),
    "a page without a relay": (
        "--set=hubble.listen.enabled=true,hubble.ui.enabled=true",
        "needs hubble.relay.enabled",
    ),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_a_bad_value_is_one_clear_error(words: str, said: str) -> None:
    done = template(words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("value", ["startupTaint.enabled", "admissionPolicy.enabled"])
def test_an_older_cluster_is_named(value: str) -> None:
    """With the right alone and no policy that confines it, one agent could change every node."""
    done = template(f"--set={value}=true", "--kube-version=1.29.4")
    assert (
        f"{value}: needs Kubernetes 1.30 (ValidatingAdmissionPolicy v1), and this cluster has v1.29.4" in done.stderr
    )
    assert template(f"--set={value}=true", "--kube-version=1.30.0-gke.1").returncode == 0


def paths_of(values: dict[str, Any], schema: dict[str, Any], at: str = "") -> tuple[set[str], set[str]]:
    """Names in the values and names in the schema, as deep as the schema goes."""
    ours, known = set(), set()
    for name, below in schema.get("properties", {}).items():
        known.add(f"{at}/{name}")
        if isinstance(values.get(name), dict):
            deeper = paths_of(values[name], below, f"{at}/{name}")
            ours, known = ours | deeper[0], known | deeper[1]
    return ours | ({f"{at}/{name}" for name in values} if "properties" in schema else set()), known


def test_the_schema_knows_just_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    ours, known = paths_of(DEFAULTS, schema)
    optional = {
        "/global", "/updateStrategy/type", "/updateStrategy/rollingUpdate/maxSurge", "/hubble/ui/resources/frontend",
        "/hubble/ui/resources/backend",
    }  # fmt: skip
    assert known - ours == optional
    assert ours <= known
    assert len(known) > 80

    def closed(part: dict[str, Any]) -> bool:
        below = part.get("properties", {}).values()
        return ("properties" not in part or part["additionalProperties"] is False or "required" in part) and all(
            closed(one) for one in below
        )

    assert closed(schema)


def test_every_value_has_a_comment() -> None:
    """Above it, or above the group that it is in and which is one thought."""
    said, bare = False, []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if not line.strip():
            said = False
        elif line.strip().startswith("#"):
            said = True
        elif not line.endswith(":") and not said:
            bare.append(line)
    assert bare == []


@pytest.mark.parametrize("name", ["extraArgs", "extraEnv", "tolerations", "podLabels", "config", "imagePullSecrets"])
def test_a_value_may_be_taken_away(name: str) -> None:
    """`null` in a file of values removes a default."""
    assert agent_of(rendered(f"--set={name}=null"))["args"] == agent_of(rendered())["args"]


def test_the_notes_name_one_command_that_shows_it_works() -> None:
    done = helm(
        "install", "dagwall", str(CHART), "--dry-run=client", "--namespace=walls", "--set=policy.posture=audit"
    )
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "kubectl -n walls exec daemonset/dagwall-agent -c agent -- dagwall status" in notes
    assert "The posture is audit" in notes


def test_the_version_is_the_agents() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
