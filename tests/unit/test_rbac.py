"""Who can act as which service account, and where the chain from Airflow's roles to policies is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.errors import DagwallError
from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Namespace, ServiceAccount
from agent.model.policy import Policy, PolicyRef, Subject
from agent.model.rights import Account, AirflowRole, Power, StoredToken
from agent.outputs.rbac import DAY, Access, RbacReport, as_dict, report
from agent.outputs.rights import powers_of, rights
from agent.parse.rights import parse_airflow_roles, parse_binding, parse_role

KIND = "TaskNetworkPolicy"
ETL, WORKER, OTHER = Account("airflow", "etl"), Account("airflow", "worker"), Account("db", "admin")


def role(name: str, *rules: tuple[Any, ...], namespace: str = "airflow") -> dict[str, Any]:
    made = [dict(zip(("apiGroups", "resources", "verbs", "resourceNames"), each, strict=False)) for each in rules]
    return {"metadata": {"name": name, "namespace": namespace}, "rules": made}


def bound(name: str, *subjects: dict[str, Any], namespace: str = "airflow", kind: str = "Role") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}s", "namespace": namespace},
        "roleRef": {"kind": kind, "name": name},
        "subjects": list(subjects),
    }


def account(name: str, namespace: str = "") -> dict[str, Any]:
    return {"kind": "ServiceAccount", "name": name} | ({"namespace": namespace} if namespace else {})


@pytest.mark.parametrize(
    ("rule", "power"),
    [
        (([""], ["pods"], ["create"]), Power.MAKE_PODS),
        ((["*"], ["*"], ["*"]), Power.MAKE_PODS),
        ((["batch"], ["jobs"], ["create"]), Power.MAKE_PODS),
        ((["apps"], ["deployments"], ["patch"]), Power.MAKE_PODS),
        ((["batch", "apps"], ["cronjobs"], ["update"]), Power.MAKE_PODS),
        (([""], ["pods/exec"], ["create"]), Power.ENTER_PODS),
        (([""], ["*/exec"], ["*"]), Power.ENTER_PODS),
        (([""], ["pods/ephemeralcontainers"], ["patch"]), Power.ENTER_PODS),
        (([""], ["serviceaccounts/token"], ["create"]), Power.MINT_TOKENS),
        (([""], ["serviceaccounts/token"], ["create"], ["etl"]), Power.MINT_TOKENS),
        (([""], ["secrets"], ["list"]), Power.READ_SECRETS),
        (([""], ["secrets"], ["get"], ["a"]), Power.READ_SECRETS),
        (([""], ["users"], ["impersonate"]), Power.IMPERSONATE),
        ((["rbac.authorization.k8s.io"], ["clusterroles"], ["bind"]), Power.GRANT_ROLES),
    ],
)
def test_rules_give_powers(rule: tuple[Any, ...], power: Power) -> None:
    assert power in {found for found, _ in powers_of(parse_role(role("r", rule)))}


@pytest.mark.parametrize(
    "rule",
    [
        ([""], ["pods"], ["get", "list", "watch", "delete", "patch", "update"]),
        (["apps"], ["pods"], ["create"]),
        ([""], ["pods"], ["create"], ["one"]),
        ([""], ["pods/log"], ["*"]),
        ([""], ["serviceaccounts"], ["create", "get"]),
        ([""], ["secrets"], ["create"]),
        ([""], ["configmaps"], ["*"]),
        ([], [], []),
    ],
)
def test_other_rules_give_none(rule: tuple[Any, ...]) -> None:
    assert list(powers_of(parse_role(role("r", rule)))) == []


def test_groups_and_users_stand_for_accounts_and_a_cluster_role_holds_where_it_is_bound() -> None:
    makes = parse_role(role("edit", ([""], ["pods"], ["create"]), namespace=""))
    people = {"kind": "User", "name": "alice"}, {"kind": "Group", "name": "devs"}
    bindings = [
        bound("edit", account("etl"), kind="ClusterRole"),
        bound("edit", {"kind": "Group", "name": "system:serviceaccounts:airflow"}, namespace="x", kind="ClusterRole"),
        bound("edit", {"kind": "Group", "name": "system:authenticated"}, namespace="", kind="ClusterRole"),
        bound("edit", {"kind": "User", "name": "system:serviceaccount:db:admin"}, namespace="y", kind="ClusterRole"),
        bound("edit", *people, namespace="z", kind="ClusterRole"),
        bound("gone", account("etl")),
    ]
    found = list(rights({("", "edit"): makes}, map(parse_binding, bindings), (ETL, WORKER, OTHER)))
    assert {(right.account, right.namespace) for right in found} == {
        (ETL, "airflow"), (ETL, "x"), (WORKER, "x"), (ETL, ""), (WORKER, ""), (OTHER, ""), (OTHER, "y"),
    }  # fmt: skip
    assert {right.by for right in found if right.namespace == "airflow"} == {
        "RoleBinding airflow/edits (ClusterRole edit)"
    }


ACCESS = Access(
    namespaces={"airflow": Namespace("airflow", managed=True), "db": Namespace("db")},
    accounts=(ServiceAccount("airflow", "etl"), ServiceAccount("airflow", "worker"), ServiceAccount("db", "admin")),
    roles={
        ("airflow", "pods"): parse_role(role("pods", ([""], ["pods"], ["create"]))),
        ("airflow", "one"): parse_role(role("one", ([""], ["serviceaccounts/token"], ["create"], ["etl"]))),
    },
    role_bindings=(
        parse_binding(bound("pods", account("worker"), account("ghost"))),
        parse_binding(bound("one", account("admin", "db"))),
    ),
    tokens=(
        StoredToken("airflow", "old", "etl", 0.0),
        StoredToken("airflow", "new", "etl", 99 * DAY),
        StoredToken("db", "theirs", "admin", 0.0),
    ),
    policies=(Policy(PolicyRef("airflow", KIND, "etl"), Subject(service_accounts=("etl", "typo")), egress=()),),
    bindings=(TaskIdentityBinding("etl", "airflow", ("etl", "missing"), ("sales_*",)),),
    airflow=(
        AirflowRole("Admin", ("*",)),
        AirflowRole("Sales", ("sales_daily", "hr_daily")),
        AirflowRole("Viewer", ()),
    ),
    now=100 * DAY,
)


def problems(found: RbacReport) -> set[str]:
    return {f"{each.about}: {each.text}" for each in found.problems}


def test_the_chain_is_told_and_where_it_is_broken() -> None:
    found = report(ACCESS, 90)
    assert [(str(right.account), right.power, right.names) for right in found.rights] == [
        ("airflow/ghost", Power.MAKE_PODS, ()), ("airflow/worker", Power.MAKE_PODS, ()),
        ("db/admin", Power.MINT_TOKENS, ("etl",)),
    ]  # fmt: skip
    assert [(token.secret, token.age_days, token.too_old) for token in found.tokens] == [
        ("airflow/old", 100, True), ("airflow/new", 1, False)
    ]  # fmt: skip
    assert [(str(each.account), each.dags, each.roles, each.policies) for each in found.chains] == [
        ("airflow/etl", ("sales_*",), ("Admin", "Sales"), ("TaskNetworkPolicy/airflow/etl",)),
        ("airflow/worker", (), ("Admin", "Sales"), ()),
    ]
    assert problems(found) == {
        "ServiceAccount/airflow/ghost: does not exist, and whoever makes it may make pods "
        "(RoleBinding airflow/podss (Role pods))",
        "ServiceAccount/airflow/worker: can be every service account of namespace airflow: it may make pods",
        "Secret/airflow/old: its token for etl never expires and is older than the bound: "
        "delete it, pods get tokens of their own",
        "Secret/airflow/new: its token for etl never expires: delete it, pods get tokens of their own",
        "TaskIdentityBinding/etl: names service account missing, which does not exist",
        "TaskNetworkPolicy/airflow/etl: selects service account typo, which does not exist",
        "ServiceAccount/airflow/worker: no policy selects it: its tasks have the namespace's default posture only",
        "ServiceAccount/airflow/worker: no TaskIdentityBinding names it: its pods may claim every DAG that none "
        "keeps",
        "Airflow role Sales: edits DAG hr_daily, which no TaskIdentityBinding is about",
    }
    assert json.loads(json.dumps(as_dict(found)))["rights"][0]["namespace"] == "airflow"


def test_a_whole_chain_has_no_problem() -> None:
    whole = replace(
        ACCESS, accounts=(ServiceAccount("airflow", "etl"),), role_bindings=(), tokens=(),
        airflow=(AirflowRole("S", ("sales_a",)),),
        policies=(Policy(PolicyRef("airflow", KIND, "p"), Subject(), egress=()),),
        bindings=(TaskIdentityBinding("b", "airflow", ("etl",), ("sales_*",)),),
    )  # fmt: skip
    assert report(whole, 90).problems == ()


def test_roles_that_airflow_exports() -> None:
    exported = [
        {"name": "Op", "resource": "DAGs", "action": "can_read"},
        {"name": "Sales", "resource": "DAG:sales_daily", "action": "can_edit,can_read"},
        {"name": "Sales", "resource": "DAG:sales_weekly", "action": "can_read"},
        {"name": "Admin", "resource": "DAGs", "action": "can_create,can_delete,can_edit,can_read"},
        {"name": "Public", "resource": "", "action": ""},
    ]
    assert parse_airflow_roles(exported, "f") == (
        AirflowRole("Admin", ("*",)), AirflowRole("Op", ()), AirflowRole("Public", ()),
        AirflowRole("Sales", ("sales_daily",)),
    )  # fmt: skip
    for wrong in ({}, [1], [{"resource": "x"}], "x"):
        with pytest.raises(DagwallError, match="f: must be a JSON list of roles"):
            parse_airflow_roles(wrong, "f")
