"""`dagwall rbac`: asks the API server and no agent, with the caller's own credentials."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.show import OUTPUT, print_heading, print_json, print_line, print_table, speaks
from agent.errors import DagwallError

if TYPE_CHECKING:
    from agent.model.rights import AirflowRole
    from agent.outputs.rbac import Access, RbacReport

OLDEST_DAYS = 90.0


@click.command()
@click.option("--kubeconfig", default="", help="Of a user who may list roles, bindings, and metadata of Secrets.")
@click.option("-n", "--namespace", default="", help="Of this managed namespace only.")
@click.option(
    "--oldest-days", type=click.FloatRange(min=0), default=OLDEST_DAYS, show_default=True,
    help="A stored token that is older is a problem of its own.",
)  # fmt: skip
@click.option(
    "--airflow-roles", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `airflow roles export FILE` wrote: who may edit which DAGs.",
)  # fmt: skip
@OUTPUT
@click.pass_context
@speaks
def rbac(context: click.Context, /, output: str, oldest_days: float, **given: Any) -> None:
    """Who can act as which service account, and where the chain from a DAG to its policies is broken.

    Exit code 0: nothing is; 3: something is, and what.
    """
    from agent.outputs.rbac import as_dict, report  # noqa: PLC0415  only here

    found = report(_access(**given), oldest_days)
    if output == "json":
        print_json(as_dict(found))
    else:
        _print(found)
    context.exit(3 if found.problems else 0)


def _access(kubeconfig: str, namespace: str, airflow_roles: Path | None) -> Access:
    from agent.outputs.rbac import Access  # noqa: PLC0415
    from agent.parse.rights import parse_airflow_roles  # noqa: PLC0415
    from agent.sources.access import AccessReader  # noqa: PLC0415
    from agent.sources.kube_api import KubeApi  # noqa: PLC0415

    airflow: tuple[AirflowRole, ...] = ()
    if airflow_roles is not None:
        try:
            document = json.loads(airflow_roles.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise DagwallError(f"{airflow_roles}: {exc}") from exc
        airflow = parse_airflow_roles(document, str(airflow_roles))
    reader = AccessReader(KubeApi.connect(kubeconfig))
    namespaces = {name: each for name, each in reader.namespaces().items() if namespace in ("", name)}
    if namespace and not any(each.managed for each in namespaces.values()):
        raise DagwallError(f"--namespace: {namespace!r} is no managed namespace of this cluster")
    return Access(
        namespaces, reader.accounts(), reader.roles(), reader.role_bindings(), reader.tokens(), reader.policies(),
        reader.bindings(), airflow, time.time(),
    )  # fmt: skip


def _print(found: RbacReport) -> None:
    print_heading("Service accounts that can act as others:")
    print_table(
        ("SERVICE ACCOUNT", "MAY", "IN", "BY"),
        [
            (str(each.account), each.power.value + (f" of {', '.join(each.names)}" if each.names else ""),
             each.namespace or "every namespace", each.by)
            for each in found.rights
        ],
    )  # fmt: skip
    print_heading("Stored tokens, which never expire:")
    print_table(
        ("SECRET", "SERVICE ACCOUNT", "AGE"),
        [(each.secret, each.account, f"{each.age_days} d" + (" !" if each.too_old else "")) for each in found.tokens],
    )
    print_heading("From Airflow's roles to policies:")
    print_table(
        ("AIRFLOW ROLES", "DAGS", "SERVICE ACCOUNT", "OUTSIDE", "POLICIES"),
        [
            (", ".join(each.roles), ", ".join(each.dags) or "any", str(each.account), ", ".join(each.external),
             ", ".join(each.policies))
            for each in found.chains
        ],
    )  # fmt: skip
    for problem in found.problems:
        print_line("warning", f"{problem.about}: {problem.text}")
