"""deploy/overlays/hubble-relay: names, ports, files and flags fit together, and the certificates fit the agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agent.cli.run import run
from agent.model.cluster import Cluster
from agent.outputs.observer.peers import Serving, peers_of

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAY = DEPLOY / "overlays" / "hubble-relay"


def objects(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in yaml.safe_load_all(path.read_text())}


def patches() -> list[dict[str, Any]]:
    (patch,) = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())["patches"]
    found: list[dict[str, Any]] = yaml.safe_load(patch["patch"])
    return found


def test_the_flags_are_real_and_name_files_of_the_secret() -> None:
    flags = dict(p["value"].split("=", 1) for p in patches() if p["path"].endswith("/args/-"))
    assert flags.keys() <= {option for parameter in run.params for option in parameter.opts}
    (mount,) = (p["value"] for p in patches() if p["path"].endswith("/volumeMounts/-"))
    (volume,) = (p["value"] for p in patches() if p["path"].endswith("/volumes/-"))
    assert mount["name"] == volume["name"]
    files = {Path(value) for flag, value in flags.items() if flag.startswith("--hubble-tls-")}
    assert files == {Path(mount["mountPath"]) / name for name in ("tls.crt", "tls.key", "ca.crt")}
    certificates = objects(DEPLOY / "hubble-certificates.yaml")
    assert (
        certificates[("Certificate", volume["secret"]["secretName"])]["spec"]["secretName"]
        == volume["secret"]["secretName"]
    )


def test_relay_finds_the_agents_under_the_names_of_their_certificate() -> None:
    relay = objects(OVERLAY / "relay.yaml")
    config = yaml.safe_load(relay[("ConfigMap", "hubble-relay")]["data"]["config.yaml"])
    service = relay[("Service", "hubble-peer")]["spec"]
    (port,) = (p["value"]["containerPort"] for p in patches() if p["path"].endswith("/ports/-"))
    assert service["ports"][0]["targetPort"] == port
    assert config["peer-service"] == f"hubble-peer.dagwall-system.svc.cluster.local.:{service['ports'][0]['port']}"
    (agent,) = (obj for (kind, _), obj in objects(DEPLOY / "base" / "daemonset.yaml").items() if kind == "DaemonSet")
    assert service["selector"] == agent["spec"]["template"]["metadata"]["labels"]
    certificate = objects(DEPLOY / "hubble-certificates.yaml")[("Certificate", "hubble-server-certs")]
    (names,) = certificate["spec"]["dnsNames"]
    cluster = Cluster()
    (peer,) = peers_of(cluster, Serving("n1.example", "", "10.0.0.1", port)).values()
    assert peer.server_name.partition(".")[2] == names.removeprefix("*.")
    assert config["cluster-name"] == cluster.settings.cluster
