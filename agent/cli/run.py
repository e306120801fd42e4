"""`dagwall run`: the agent, in the foreground."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from agent import log
from agent.app.agent import build, raise_file_limit, stop_on_signals
from agent.app.serve import Serving
from agent.cli.settings import read_map_entries, read_settings
from agent.cli.show import speaks
from agent.config import Config, OnAgentLoss
from agent.errors import DagwallError, InvalidObject, StateError
from agent.kernel.pins import Pins
from agent.model.policy import DefaultPosture, Posture
from agent.node.state import refuse_owned
from agent.outputs.http import split_address
from agent.sources.cgroup_names import parse_roots
from agent.text import printable

DEFAULTS = {field.name: field.default for field in fields(Config)}
_PATH = click.Path(path_type=Path)

Command = Callable[..., Any]


def _choice(of: type[OnAgentLoss | DefaultPosture | Posture]) -> click.Choice[str]:
    return click.Choice([member.value for member in of])


def _metrics(_: click.Context, __: click.Parameter, value: str) -> str:
    if value:
        try:
            split_address(value)
        except ValueError as exc:
            raise click.BadParameter(f"{exc}; '' serves none") from exc
    return value


def _entries(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    try:
        return read_map_entries(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


POLICY_OPTIONS = (
    click.option("--config", type=_PATH, help="YAML: airflow, metadata, dns, ranges and the flags below."),
    click.option("--cluster", help="The cluster's name in identities.  [default: default]"),
    click.option("--pod-cidr", "podCidrs", multiple=True, help="Range of pods' addresses; can be repeated."),
    click.option("--service-cidr", "serviceCidrs", multiple=True, help="Range of services; can be repeated."),
    click.option(
        "--default-posture", "defaultPosture", type=_choice(DefaultPosture),
        help="Of directions that no policy speaks about, in managed namespaces.  [default: observe]",
    ),
    click.option(
        "--posture", type=_choice(Posture), help="audit: only report what would be denied.  [default: enforce]"
    ),
    click.option(
        "--baseline", help="Entities that every task may reach, with commas; none for none.  [default: airflow,dns]"
    ),
    click.option("--managed-namespace", "managedNamespaces", multiple=True, help="Managed without a label."),
    click.option(
        "--network-policy", "networkPolicy", is_flag=True,
        help="Enforce Kubernetes' own NetworkPolicies on managed pods too: both kinds must allow.",
    ),
)  # fmt: skip
"""What decides about verdicts; `policy explain --files` has them too."""

POLICY_NAMES = (
    "cluster", "podCidrs", "serviceCidrs", "defaultPosture", "posture", "baseline", "managedNamespaces",
    "networkPolicy",
)  # fmt: skip
"""Of the parameters that these options are, but for `config`."""


def policy_options(command: Command) -> Command:
    for option in reversed(POLICY_OPTIONS):
        command = option(command)
    return command


def _seconds(name: str, flag: str, low: float, text: str) -> Callable[[Command], Command]:
    return click.option(
        flag, name, type=click.FloatRange(low, 86_400), default=DEFAULTS[name], show_default=True, metavar="SECONDS",
        help=text,
    )  # fmt: skip


def _number(name: str, flag: str, low: int, high: int, text: str) -> Callable[[Command], Command]:
    return click.option(
        flag, name, type=click.IntRange(low, high), default=DEFAULTS[name], show_default=True, metavar="N", help=text
    )


def _path(name: str, flag: str, text: str) -> Callable[[Command], Command]:
    return click.option(flag, name, type=_PATH, default=DEFAULTS[name], show_default=True, help=text)


STAYS = "what is enforced stays enforced and counted without an agent; `dagwall detach` ends that"


@click.command()
@click.option(
    "--files",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of manifests: pods, namespaces, services, policies. Watched.  [default: the API server]",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Credentials for the API server.  [default: the pod's service account, else ~/.kube/config]",
)
@click.option("--node", default=platform.node(), show_default="this host's name", help="This node's name.")
@policy_options
@click.option(
    "--cgroup-root", "cgroup_roots", multiple=True, help="Root of pods, instead of where kubelets make them."
)
@click.option("--cgroup-mount", type=_PATH, help="Mount of cgroup v2.  [default: from /proc/self/mountinfo]")
@_path("log_folders", "--log-folders", "The kubelet's log folders.")
@_path("pins", "--pins", "Folder on a bpffs for programs, links and maps.")
@_path("state", "--state", "Folder for identity numbers and frozen claims.")
@click.option(
    "--program-cache",
    type=_PATH,
    help="Folder of compiled programs, for quick starts.  [default: programs in --state]",
)
@_path("socket", "--socket", "Unix socket of the local API.")
@click.option(
    "--metrics",
    default=DEFAULTS["metrics"],
    show_default=True,
    metavar="HOST:PORT",
    callback=_metrics,
    help="Address of /metrics, /livez, /readyz; '' serves none.",
)
@click.option(
    "--probes",
    default=DEFAULTS["probes"],
    metavar="HOST:PORT",
    callback=_metrics,
    help="A second address of /livez and /readyz, for the kubelet on loopback: nobody else can keep it busy.",
)
@click.option(
    "--flow-log", type=_PATH, help="File of flows and denials, JSON lines in the format of Hubble's exporter."
)
@click.option("--audit-log", type=_PATH, help="File of the audit log: denials, policies, identities, gaps; chained.")
@click.option(
    "--audit-key", type=_PATH, help="Ed25519 key that signs it, in PEM.  [default: the node's own, made in --state]"
)
@_number(
    "audit_files", "--audit-files", 1, 1000, "Old files of the audit log, of 64 MiB each, before the oldest goes."
)
@click.option(
    "--hubble-socket",
    metavar="PATH",
    help="Unix socket of Hubble's services, for `hubble --server unix://PATH`; '' serves none.  "
    "[default: hubble.sock beside --socket]",
)
@click.option(
    "--hubble-listen",
    default=DEFAULTS["hubble_listen"],
    metavar="HOST:PORT",
    callback=_metrics,
    help="Address of the same for hubble-relay, with TLS both ways: needs the three files.",
)
@click.option("--hubble-tls-cert", "hubble_certificate", type=_PATH, help="Certificate; read again when renewed.")
@click.option("--hubble-tls-key", "hubble_key", type=_PATH, help="Its key.")
@click.option("--hubble-tls-client-ca", "hubble_client_ca", type=_PATH, help="CA of the clients' certificates.")
@_number("hubble_flows", "--hubble-flows", 1, 1_000_000, "Flows kept for Hubble's services.")
@click.option(
    "--on-agent-loss",
    type=_choice(OnAgentLoss),
    default=OnAgentLoss.ALLOW.value,
    show_default=True,
    help="What unknown pods may do while the agent is dead.",
)
@_seconds("loss_grace_seconds", "--loss-grace", 1, "Silence after which the agent counts as dead.")
@_seconds("reply_seconds", "--reply-time", 1, "How long answers to a datagram are answers.")
@_seconds("drain_seconds", "--drain-interval", 0.05, "Between two reads of the flows.")
@_seconds("tcp_idle_seconds", "--tcp-idle", 10, "Until an idle TCP flow is forgotten.")
@_number("event_rate", "--event-rate", 1, 1_000_000, "Events of an endpoint each second.")
@_number("event_burst", "--event-burst", 1, 1_000_000, "Events of an endpoint at once.")
@_number("flow_quota", "--flow-quota", 1, 1 << 24, "Entries in the flow table for each endpoint.")
@_number(
    "dns_min_ttl_seconds",
    "--dns-min-ttl",
    0,
    1 << 31,
    "An address is known by its DNS name at least so long, seconds.",
)
@_number("dns_max_ttl_seconds", "--dns-max-ttl", 1, 1 << 31, "And at most so long.")
@_number("metric_series", "--metric-series", 1, 1_000_000, "Task series before the overflow series.")
@click.option("--map-entries", multiple=True, metavar="NAME=N", callback=_entries, help="Size of a kernel map.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Of the JSON lines on standard error.",
)
@speaks
def run(log_level: str, **given: Any) -> None:
    """Enforce policies on this node until SIGTERM. What is enforced stays when the agent ends."""
    policy_flags = take_policy_flags(given)
    try:
        read = read_settings(given.pop("config"), policy_flags)
        cgroup_roots = parse_roots(given["cgroup_roots"])
    except InvalidObject as exc:
        raise click.UsageError(printable(str(exc))) from exc
    config = Config(
        **given
        | {
            "cgroup_roots": cgroup_roots,
            "on_agent_loss": OnAgentLoss(given["on_agent_loss"]),
            "managed_namespaces": read.managed_namespaces,
        }
    )
    if os.geteuid() != 0:
        raise DagwallError(
            "dagwall run: must be run as root: it loads programs into the kernel and attaches them to cgroups of pods"
        )
    log.configure(level=log_level)
    raise_file_limit()
    _refuse_others(config)
    serving = Serving(config)
    serving.start()
    try:
        agent = build(config, read.settings, serving.outputs)
        serving.latest.read_with(agent.totals.read)
        stop_on_signals(agent)
        agent.run()
        log.event("agent.stopped", pins=str(config.pins), still=STAYS)
    except StateError as exc:
        raise DagwallError(f"--state: {exc}") from exc
    finally:
        serving.stop()


def _refuse_others(config: Config) -> None:
    """An agent that lives here is named before an address that it has."""
    Pins(config.pins).refuse_taken()
    try:
        refuse_owned(config.state)
    except StateError as exc:
        raise DagwallError(f"--state: {exc}") from exc


def take_policy_flags(given: dict[str, Any]) -> dict[str, Any]:
    """The part of the flags that read_settings wants, taken out of `given`; `config` stays."""
    return {name: given.pop(name) for name in POLICY_NAMES}
