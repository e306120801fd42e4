"""`dagwall doctor`: what the facts of a node mean, and how they are read out of its files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent.cli import main
from agent.cli.doctor import command
from agent.cli.doctor.checks import findings
from agent.cli.doctor.facts import (
    CAPABILITIES,
    Facts,
    capabilities_of,
    cni_of,
    kubelet_driver_of,
    runtime_driver_of,
    sandboxes_of,
    v1_controllers_of,
    version_of,
)
from agent.cli.doctor.finding import Finding, Level
from agent.cli.doctor.look import look
from agent.kernel.probe import Features

ROOT = Path(__file__).parents[2]
ALL = dict.fromkeys(asdict(Features(*[True] * len(Features.__dataclass_fields__))), True)
GOOD = Facts(
    features=ALL, lsms=("lockdown", "bpf"), roots=("/kubepods.slice",), pods=12, kubelet_driver="systemd",
    runtime_driver="systemd", cni=("k8s-pod-network (calico, portmap)",), memory_bytes=4 << 30,
)  # fmt: skip


def of(level: Level, facts: Facts) -> list[Finding]:
    return [each for each in findings(facts) if each.level is level]


def without(name: str) -> dict[str, Any]:
    return {"features": ALL | {name: False}}


def test_a_good_node() -> None:
    found = findings(GOOD)
    assert {each.level for each in found} == {Level.OK}
    assert {"kernel", "rights", "bpf", "cgroup v2", "bpffs", "pods", "CNI", "BTF", "memory"} <= {
        e.what for e in found
    }


FAILS: dict[str, tuple[dict[str, Any], str, str]] = {
    "an old kernel": ({"release": "5.4.0-1"}, "Linux 5.4.0-1 on x86_64: too old", "5.10"),
    "another machine": ({"machine": "riscv64"}, "riscv64: no such build", "aarch64 or x86_64"),
    "not root": ({"root": False, "capabilities": frozenset()}, "not root", "as root"),
    "no SYS_PTRACE": ({"capabilities": frozenset({"SYS_ADMIN", "NET_ADMIN"})}, "without SYS_PTRACE", "daemonset"),
    "no SYS_RESOURCE on 5.10": (
        {"release": "5.10.0", "capabilities": frozenset(CAPABILITIES) - {"SYS_RESOURCE"}}, "SYS_RESOURCE", "capab",
    ),
    "no bcc": ({"libraries": "Python's module bcc is not there"}, "bcc is not there", "python3-bpfcc"),
    "no programs": ({"programs": "may not load", "features": None}, "may not load", "seccomp"),
    "a program that is alone": ({"exclusive": ("connect4 of /: program 7",)}, "program 7", "BPF_F_ALLOW_MULTI"),
    "no cgroup v2": ({"cgroup_mount": "", "roots": ()}, "is not mounted", "unified_cgroup_hierarchy"),
    "pods in cgroup v1": (
        {"v1_controllers": frozenset({"memory", "cpu"}), "roots": (), "pods": 0}, "cpu, memory are cgroup v1", "boot",
    ),
    "a folder in bpffs's way": ({"bpffs": "tc"}, "would hide tc", "--pins"),
    "drivers that differ": ({"runtime_driver": "cgroupfs"}, "kubelet's is systemd, the runtime's cgroupfs", "both"),
    "pods outside": ({"outside": ("uid-1", "uid-2")}, "2 pods' containers are outside", "docs/cgroups.md"),
    "a port": ({"ports_taken": (9990,)}, "9990 is taken", "--metrics"),
}  # fmt: skip

WARNS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no lsm_cgroup": ({**without("lsm_cgroup"), "lsms": None}, "AF_PACKET", "6.0 or newer"),
    "BPF is no active LSM": (
        {**without("lsm_cgroup"), "lsms": ("lockdown", "yama")},
        "AF_VSOCK",
        "lsm=lockdown,yama,bpf",
    ),
    "an old kernel's LSMs": (
        {**without("lsm_cgroup"), "lsms": ("yama",), "release": "5.10.0"},
        "AF_PACKET",
        "Linux 6.0 or newer",
    ),
    "no fqdn": (without("netns_owner"), "policies with fqdn are refused", "BTF"),
    "no tls": (without("write_seq"), "policies with tls or http are refused", "BTF"),
    "no http": (without("shared_frags"), "policies with http are refused", "BTF"),
    "no sockops": (without("sockops"), "wait a second", "sock_ops"),
    "no BTF": ({"btf": False}, "no BTF", "CONFIG_DEBUG_INFO_BTF"),
    "lockdown": ({"lockdown": "confidentiality"}, "locked down", "integrity"),
    "no kubelet": ({"roots": (), "pods": 0}, "no root of pods", "--cgroup-root"),
    "pods in both kinds": ({"v1_controllers": frozenset({"memory"})}, "there are pods in it all the same", "unified"),
    "maps are the agent's": ({"memory_tree": False}, "the agent's own limit", "hostPID"),
    "cilium": ({"cni": ("cilium (cilium-cni)",)}, "kube-proxy replacement", "one node"),
    "gVisor": ({"sandboxes": ("gVisor",)}, "gVisor are set up", "runc"),
    "a small node": ({"memory_bytes": 100 << 20}, "100 MiB can be had", "bigger"),
    "a small limit": ({"memory_limit_bytes": 256 << 20}, "may have 256 MiB", "raise"),
    "no log folders": ({"log_folders": False}, "/var/log/pods", "--log-folders"),
}


@pytest.mark.parametrize(("changed", "found", "do"), FAILS.values(), ids=FAILS)
def test_it_fails(changed: dict[str, Any], found: str, do: str) -> None:
    said = of(Level.FAILS, replace(GOOD, **changed))
    assert said
    assert any(found in each.found and do in each.do for each in said), said


@pytest.mark.parametrize(("changed", "found", "do"), WARNS.values(), ids=WARNS)
def test_it_warns_and_would_work(changed: dict[str, Any], found: str, do: str) -> None:
    facts = replace(GOOD, **changed)
    assert of(Level.FAILS, facts) == []
    assert any(found in each.found and do in each.do for each in of(Level.WARNS, facts)), findings(facts)


@pytest.mark.parametrize("changed", [case[0] for case in (*FAILS.values(), *WARNS.values())], ids=[*FAILS, *WARNS])
def test_each_problem_says_what_to_do(changed: dict[str, Any]) -> None:
    for each in findings(replace(GOOD, **changed)):
        assert each.what
        assert each.found
        assert each.do or each.level is Level.OK


@pytest.mark.parametrize("name", ["set_retval", "sock_error", "skb_netns"])
def test_what_is_as_it_must_be_on_a_kernel_is_no_warning(name: str) -> None:
    assert of(Level.WARNS, replace(GOOD, **without(name))) == []
    assert any(f"no {name}" in each.found for each in of(Level.OK, replace(GOOD, **without(name))))


def test_every_feature_is_spoken_about() -> None:
    silent = replace(GOOD, features=dict.fromkeys(ALL, False))
    said = " ".join(each.found for each in findings(silent))
    assert [name for name in ALL if name != "lsm_cgroup" and f"no {name}" not in said] == []
    assert "AF_PACKET" in said


def test_an_agent_that_runs_has_its_ports() -> None:
    assert of(Level.FAILS, replace(GOOD, agent=True, ports_taken=(9990,))) == []


def test_the_capabilities_and_ports_are_the_daemonset_s(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy/base/daemonset.yaml").read_text())
    (daemonset,) = (obj for obj in documents if obj["kind"] == "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert set(CAPABILITIES) == set(container["securityContext"]["capabilities"]["add"])
    assert container["resources"]["limits"]["memory"] == "512Mi"
    ports = {arg.rpartition(":")[2] for arg in container["args"] if arg.rpartition(":")[2].isdigit()}
    assert ports == {"9989", "9990"}


def test_files_of_a_node() -> None:
    assert [version_of(text) for text in ("6.12.3+deb13-cloud-amd64", "5.10", "x")] == [(6, 12), (5, 10), (0, 0)]
    assert capabilities_of("Name:\tx\nCapEff:\t000001ffffffffff\n") == frozenset(CAPABILITIES)
    assert capabilities_of("CapEff:\t0000000000001000\n") == {"NET_ADMIN"}
    assert capabilities_of("") == frozenset()
    line = "30 24 0:26 / {} rw shared:4 - {} none rw,{}\n"
    v1 = line.format("/sys/fs/cgroup/cpu", "cgroup", "cpu,cpuacct") + line.format(
        "/sys/fs/cgroup/s", "cgroup", "name=systemd"
    )
    assert v1_controllers_of(v1) == {"cpu"}
    assert v1_controllers_of(line.format("/sys/fs/cgroup", "cgroup2", "nsdelegate")) == frozenset()
    kubelet = "kind: KubeletConfiguration\ncgroupDriver: systemd\n"
    assert [kubelet_driver_of(text) for text in (kubelet, "kind: KubeletConfiguration\n", "", "a: [", "5")] == [
        "systemd", "cgroupfs", "", "", "",
    ]  # fmt: skip
    containerd = "[plugins.x.runtimes.runc.options]\n  SystemdCgroup = {}\n"
    assert [runtime_driver_of(containerd.format(text)) for text in ("true", "false", '"x"')] == [
        "systemd",
        "cgroupfs",
        "",
    ]
    assert runtime_driver_of(containerd.format("true") + containerd.format("false")) == "", "runtimes that differ"
    assert sandboxes_of(['[plugins.x.runtimes.runsc]\n  runtime_type = "io.containerd.runsc.v1"\n', ""]) == (
        "gVisor",
    )


def test_networks_of_a_node() -> None:
    chain = json.dumps({"name": "k8s", "plugins": [{"type": "calico"}, {"type": "portmap"}]})
    single = json.dumps({"type": "bridge"})
    files = {
        "20-b.conf": single,
        "10-a.conflist": chain,
        "30-c.conf": "no JSON",
        "40-d.conf": "[]",
        "50-e.conf": "{}",
    }
    assert cni_of(files) == (
        "k8s (calico, portmap)", "20-b.conf (bridge)", "30-c.conf (cannot be read)", "40-d.conf (cannot be read)",
        "50-e.conf (cannot be read)",
    )  # fmt: skip
    assert cni_of({}) == ()


def test_the_hosts_files_below_a_root(tmp_path: Path) -> None:
    """As `kubectl debug node/NODE` mounts them."""
    for name, text in (
        ("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\ncgroupDriver: systemd\n"),
        ("etc/containerd/config.toml", "SystemdCgroup = false\n[runtimes.kata]\n"),
        ("etc/cni/net.d/10-flannel.conflist", '{"name": "cbr0", "plugins": [{"type": "flannel"}]}'),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "var/log/pods").mkdir(parents=True)
    (tmp_path / "sys/fs/bpf/tc").mkdir(parents=True)
    seen = look(tmp_path, tmp_path / "pins", tmp_path / "none.sock")
    assert (seen.kubelet_driver, seen.runtime_driver, seen.sandboxes) == ("systemd", "cgroupfs", ("Kata Containers",))
    assert (seen.cni, seen.log_folders, seen.bpffs, seen.unreadable) == (("cbr0 (flannel)",), True, "tc", ())
    assert not seen.agent
    assert not seen.pinned
    assert (look(tmp_path / "sys", tmp_path, tmp_path / "x").unreadable)[0].startswith(
        "the kubelet's configuration ("
    )


@pytest.mark.parametrize(
    ("facts", "code"), [(GOOD, 0), (replace(GOOD, btf=False), 0), (replace(GOOD, bpffs="tc"), 1)]
)
def test_the_exit_code_and_both_forms(facts: Facts, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "look", lambda *_: facts)
    table = CliRunner().invoke(main, ["doctor"])
    assert table.exit_code == code
    lines = table.output.splitlines()
    assert lines[0] == "ok    kernel: Linux 6.12.0 on x86_64"
    found = findings(facts)
    assert lines[-1].startswith(f"{sum(each.level is Level.OK for each in found)} ok, ")
    assert table.output.count("do: ") == sum(bool(each.do) for each in found)
    told = json.loads(CliRunner().invoke(main, ["doctor", "-o", "json"]).output)
    assert told == [{"level": e.level.value, "what": e.what, "found": e.found, "do": e.do} for e in found]
