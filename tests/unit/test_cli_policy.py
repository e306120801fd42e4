"""`dagwall policy`: check and explain, on files alone and against a socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.cli.policy import split_target

NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: airflow, labels: {dagwall.io/managed: "true"}}\n'
POLICY = """\
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {name: finance-egress, namespace: airflow}
spec:
  subject: {dagIds: ["finance_*"]}
  egress:
  - name: warehouse
    to: [{cidr: 192.0.2.0/24}]
    ports: [{port: 443}]
"""
FLOOR = """\
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {name: floor, namespace: airflow}
spec: {subject: {serviceAccounts: [etl]}, egress: []}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: p1
  namespace: airflow
  uid: cc7a1de5-1bf8-4567-ae3a-697995000001
  labels: {kubernetes_executor: "True", dag_id: finance_daily, task_id: load}
  annotations: {dag_id: finance_daily, task_id: load}
spec: {serviceAccountName: etl, containers: []}
status: {podIP: 10.0.0.9, phase: Running}
"""


def dagwall(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def write(folder: Path, *documents: str, name: str = "all.yaml") -> Path:
    file = folder / name
    file.write_text("---\n".join(documents))
    return file


def test_valid_files_are_silent(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, FLOOR)
    assert dagwall("policy", "check", tmp_path).output == "1 policies, 0 errors, 0 warnings\n"


BINDING = """\
apiVersion: dagwall.io/v1alpha1
kind: TaskIdentityBinding
metadata: {name: reports}
spec: {namespace: airflow, serviceAccounts: [etl], dagIds: [reports], posture: enforce}
"""
NATIVE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: airflow}
spec: {podSelector: {}, policyTypes: [Egress]}
"""


def test_what_was_checked_is_counted(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, FLOOR, BINDING, NATIVE)
    output = dagwall("policy", "check", tmp_path, "--network-policy").output
    assert output == "1 policies, 1 network policies, 1 bindings, 0 errors, 0 warnings\n"
    got = json.loads(dagwall("policy", "check", tmp_path, "-o", "json").output)
    assert (got["policies"], got["network_policies"], got["bindings"]) == (1, 1, 1)


def test_explain_tells_of_bindings_and_layers(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, POD, BINDING)
    who = ("--pod", "airflow/p1", "--to", "192.0.2.9:443")
    said = explain(tmp_path, *who, code=3)
    assert "it is quarantined; " in said
    assert "TaskIdentityBinding/reports" in said
    write(tmp_path, NAMESPACE, POD, NATIVE)
    (got,) = json.loads(explain(tmp_path, *who, "--network-policy", "-o", "json", code=3))
    assert (got["verdict"], got["layer"]) == ("deny", "NetworkPolicy")
    explain(tmp_path, *who)


def test_errors_name_file_line_field_and_what_is_allowed(tmp_path: Path) -> None:
    file = write(tmp_path, NAMESPACE, FLOOR.replace("egress", "egres"))
    output = dagwall("policy", "check", file, code=1).output
    assert f"{file}:8: error TaskNetworkPolicy/airflow/floor: spec: unknown field 'egres'; allowed: " in output
    assert "1 errors" in output


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    file = write(tmp_path, "a: 1\nb: [c\n")
    assert f"{file}:3: error is no YAML: " in dagwall("policy", "check", file, code=1).output


def test_errors_as_json(tmp_path: Path) -> None:
    file = write(tmp_path, NAMESPACE, POLICY.replace("finance_*", "finance_daily"), FLOOR.replace("egress", "egres"))
    found = json.loads(dagwall("policy", "check", file, "-o", "json", code=1).output)
    assert found["policies"] == 1
    (error,), (warning,) = found["errors"], found["warnings"]
    assert (error["object"], error["field"]) == ("TaskNetworkPolicy/airflow/floor", "spec")
    assert (error["place"], warning["place"]) == (f"{file}:18", f"{file}:9")


@pytest.mark.parametrize(
    ("documents", "warned"),
    [
        ((POLICY,), True),
        ((POLICY, FLOOR), False),
        ((POLICY, FLOOR.replace("egress", "ingress")), True),
        ((POLICY, FLOOR.replace("serviceAccounts: [etl]", "")), False),
        ((POLICY, FLOOR.replace("serviceAccounts: [etl]", "podSelector: {matchLabels: {a: b}}")), True),
        ((POLICY, FLOOR.replace("egress: []", "egress: [], posture: audit")), True),
        ((POLICY, FLOOR.replace("subject:", "posture: enforce, subject:")), False),
        ((POLICY, FLOOR.replace("Task", "ClusterTask").replace(", namespace: airflow", "")), False),
        ((POLICY.replace("dagIds", "taskIds"),), True),
        ((POLICY.replace('{dagIds: ["finance_*"]}', "{serviceAccounts: [etl]}"),), False),
        ((POLICY.replace('"finance_*"]', '"finance_*"], serviceAccounts: [other]'), FLOOR), True),
    ],
)  # fmt: skip
def test_policies_by_claims_need_something_below(tmp_path: Path, documents: tuple[str, ...], warned: bool) -> None:
    write(tmp_path, NAMESPACE, *documents)
    output = dagwall("policy", "check", tmp_path).output
    assert ("a pod that claims another id is not selected" in output) == warned
    assert "0 errors" in output


def test_a_default_of_deny_is_enough(tmp_path: Path) -> None:
    policy = POLICY.replace("finance_*", "finance_daily")
    write(tmp_path, NAMESPACE, policy)
    assert "0 warnings" in dagwall("policy", "check", tmp_path, "--default-posture", "deny").output
    annotated = NAMESPACE.replace("metadata: {", "metadata: {annotations: {dagwall.io/default-posture: deny}, ")
    write(tmp_path, annotated, policy)
    assert "0 warnings" in dagwall("policy", "check", tmp_path).output


def test_tasks_peers_are_not_bound(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, FLOOR.replace("egress: []", "egress: [{to: [{tasks: {dagIds: [a]}}]}]"))
    assert "warning TaskNetworkPolicy/airflow/floor: spec.egress[0]: `tasks` believes what pods claim" in (
        dagwall("policy", "check", tmp_path).output
    )


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("", "matches nothing: there is no service airflow/db"),
        ("spec: {type: ExternalName, externalName: x.example}", "has no address and no endpoint"),
        ("spec: {clusterIP: None, ports: [{port: 5432}]}", "has no address and no endpoint"),
        ("spec: {clusterIP: 10.96.0.9, ports: [{port: 5432}]}", ""),
    ],
)
def test_a_service_that_can_never_match_is_a_warning(tmp_path: Path, service: str, said: str) -> None:
    """P13"""
    names = "{name: db, namespace: airflow}" if service else "{name: other, namespace: airflow}"
    manifest = f"apiVersion: v1\nkind: Service\nmetadata: {names}\n{service or 'spec: {ports: [{port: 1}]}'}\n"
    policy = FLOOR.replace("egress: []", "egress: [{to: [{service: {name: db}}]}]")
    assert policy != FLOOR
    write(tmp_path, NAMESPACE, policy, manifest)
    output = dagwall("policy", "check", tmp_path).output
    assert said in output
    assert ("spec.egress[0].to[0].service: " in output) == ("1 warnings" in output) == bool(said)


def test_files_without_services_say_nothing_about_them(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, FLOOR.replace("egress: []", "egress: [{to: [{service: {name: db}}]}]"))
    assert "0 warnings" in dagwall("policy", "check", tmp_path).output


@pytest.mark.parametrize(
    ("subject", "warned"),
    [
        ("dagIds: ['*_prod']", True),
        ("dagIds: ['*_prod'], kinds: [kubernetes-executor]", False),
        ("dagIds: ['*']", False),
        ("dagIds: ['**']", False),
        ("dagIds: ['finance_*']", True),
        ("dagIds: ['a*b']", True),
        ("taskIds: ['load_*']", True),
        ("dagIds: ['finance_*'], kinds: [kubernetes-pod-operator]", True),
        ("dagIds: [finance_prod]", False),
    ],
)
def test_patterns_that_hashed_ids_cannot_show(tmp_path: Path, subject: str, warned: bool) -> None:
    """I1"""
    policy = FLOOR.replace("name: floor", "name: p").replace("serviceAccounts: [etl]", subject)
    policy = policy.replace("egress: []", "egress: [{to: [{entity: world}]}]")
    write(tmp_path, NAMESPACE, FLOOR, policy)
    output = dagwall("policy", "check", tmp_path).output
    assert ("known as a hash only" in output) == warned, output
    write(tmp_path, NAMESPACE, FLOOR, policy.replace("egress: [{to: [{entity: world}]}]", "egress: []"))
    assert "known as a hash only" not in dagwall("policy", "check", tmp_path).output, "it only restricts"


@pytest.mark.parametrize("pattern", ["finance_*", "*_prod", "*", "finance"])
@pytest.mark.parametrize(("place", "said"), [("egress", True), ("deny", False)])
def test_so_are_those_of_tasks_peers(tmp_path: Path, pattern: str, place: str, said: bool) -> None:
    """I1"""
    peers = f"[{{name: r, to: [{{tasks: {{dagIds: ['{pattern}']}}}}]}}]"
    write(tmp_path, NAMESPACE, FLOOR.replace("egress: []", f"{place}: {peers}"))
    output = dagwall("policy", "check", tmp_path).output
    expected = f"spec.{place}[0].to[0].tasks.dagIds: '{pattern}' means no KubernetesPodOperator pods"
    assert (expected in output) == (said and pattern in ("finance_*", "*_prod")), output


@pytest.mark.parametrize(("posture", "said"), [("enforce", "they are quarantined"), ("audit", "they contradict it")])
def test_so_are_those_of_bindings(tmp_path: Path, posture: str, said: str) -> None:
    """I1"""
    binding = BINDING.replace("enforce", posture)
    write(tmp_path, NAMESPACE, binding)
    assert "known as a hash only" not in dagwall("policy", "check", tmp_path).output
    write(tmp_path, NAMESPACE, binding.replace("dagIds: [reports]", "dagIds: ['reports_*']"))
    output = dagwall("policy", "check", tmp_path).output
    assert "spec.dagIds: 'reports_*' vouches for no KubernetesPodOperator pods" in output
    assert said in output


def test_a_policy_of_an_unmanaged_namespace_selects_nothing(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE.replace('"true"', '"false"'), FLOOR)
    assert "selects nothing: namespace airflow is not managed" in dagwall("policy", "check", tmp_path).output
    managed = dagwall("policy", "check", tmp_path, "--managed-namespace", "airflow")
    assert "0 warnings" in managed.output


def test_a_namespace_that_is_not_among_the_files_may_well_be_managed(tmp_path: Path) -> None:
    write(tmp_path, FLOOR)
    assert "0 warnings" in dagwall("policy", "check", tmp_path).output


ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: etl, namespace: airflow}\n"


@pytest.mark.parametrize(
    ("documents", "line", "said"),
    [
        ((NAMESPACE, FLOOR.replace("subject:", "attestation: signed, subject:")), 8, "no pod earns 'signed'"),
        ((NAMESPACE, FLOOR.replace("subject:", "attestation: bound, subject:")), 8, "no pod earns 'bound'"),
        ((NAMESPACE.replace("labels: {", "annotations: {dagwall.io/baseline: ''}, labels: {"), FLOOR,
          POLICY.replace("cidr: 192.0.2.0/24", "fqdn: api.example.org")), 17,
         "spec.egress[0].to[0].fqdn: no rule allows entity dns, from whose answers names are learned"),
        ((NAMESPACE, FLOOR.replace("namespace: airflow", "namespace: airflwo")), 7,
         "metadata.namespace: namespace airflwo is not among these files (there are: airflow)"),
        ((NAMESPACE, POLICY.replace("cidr: 192.0.2.0/24", "tasks: {namespace: dbb, dagIds: [x]}")), 12,
         "spec.egress[0].to[0]: namespace dbb is not among these files"),
        ((NAMESPACE, ACCOUNT, FLOOR.replace("[etl]", "[elt]")), 12,
         "spec.subject.serviceAccounts: account elt is not among these files (there are: airflow/etl)"),
        ((NAMESPACE, ACCOUNT, BINDING.replace("[etl]", "[elt]")), 12, "spec.serviceAccounts: account elt is not"),
        ((NAMESPACE, BINDING.replace("airflow", "airflwo")), 8, "spec.namespace: namespace airflwo is not"),
        ((NAMESPACE.replace("/managed", "/manged"), FLOOR), 3, "did you mean 'dagwall.io/managed'?"),
        ((NAMESPACE.replace("dagwall.io/", "dagwal.io/"), FLOOR), 3, "did you mean 'dagwall.io/managed'?"),
        ((NAMESPACE.replace("labels: {", "annotations: {dagwall.io/default_posture: deny}, labels: {"), FLOOR), 3,
         "means nothing to dagwall; its annotations here: dagwall.io/default-posture or dagwall.io/baseline"),
        ((NAMESPACE.replace("labels", "annotations"), FLOOR), 3, "belongs among the others"),
        ((NAMESPACE, FLOOR, NATIVE), 10, "is not enforced: --network-policy"),
        ((NAMESPACE, FLOOR, NATIVE.replace("podSelector: {}", "podSelector: {}, egres: []")), 13,
         "did you mean 'egress'?"),
        ((NAMESPACE, POLICY.replace("port: 443", "port: 0x1bb")), 13, "write 443 for the number"),
        ((NAMESPACE,), 0, "no policy and no binding is among these files"),
    ],
)  # fmt: skip
def test_the_worst_mistakes_are_warnings(tmp_path: Path, documents: tuple[str, ...], line: int, said: str) -> None:
    file = write(tmp_path, *documents)
    warnings = [each for each in dagwall("policy", "check", file).output.splitlines() if "warning" in each]
    place = f"{file}:{line}: " if line else f"{file}: "
    assert any(said in each and each.startswith(place) for each in warnings), warnings


def test_an_enforced_exclusive_binding_keeps_the_ids_of_a_tasks_peer(tmp_path: Path) -> None:
    """I5"""
    peer = FLOOR.replace("egress: []", "egress: [{to: [{tasks: {dagIds: [reports]}}]}]")
    keeps = BINDING.replace("posture: enforce", "posture: enforce, exclusive: true")
    for binding, warned in ((BINDING, True), (keeps, False), (keeps.replace("enforce,", "audit,"), True)):
        write(tmp_path, NAMESPACE, peer, binding)
        assert ("`tasks` believes" in dagwall("policy", "check", tmp_path).output) == warned
    write(tmp_path, NAMESPACE, peer.replace("[reports]", "[reports, other]"), keeps)
    assert "`tasks` believes" in dagwall("policy", "check", tmp_path).output


@pytest.mark.parametrize("content", [None, ""])
def test_nothing_to_check_is_no_good_news(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "empty.yaml").write_text(content)
    assert (
        "holds no object: looked for *.yaml, *.yml and *.json" in dagwall("policy", "check", tmp_path, code=1).output
    )


def test_faults_in_lists_and_json_have_their_own_line(tmp_path: Path) -> None:
    listed = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        "- " + document.replace("\n", "\n  ").rstrip() + "\n" for document in (FLOOR, POLICY.replace("443", "99999"))
    )
    file = write(tmp_path, listed, name="list.YAML")
    assert f"{file}:16: error TaskNetworkPolicy/airflow/finance-egress: spec.egress[0].ports[0].port" in (
        dagwall("policy", "check", tmp_path, code=1).output
    )
    file.unlink()
    broken = {
        "apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy", "metadata": {"name": "p", "namespace": "a"},
        "spec": {"subject": {}, "egres": []},
    }  # fmt: skip
    file = write(tmp_path, json.dumps(broken, indent=1), name="p.json")
    assert f"{file}:10: error TaskNetworkPolicy/a/p: spec: unknown field 'egres'" in (
        dagwall("policy", "check", file, code=1).output
    )


def test_standard_input_is_checked() -> None:
    result = CliRunner().invoke(main, ["policy", "check", "-"], input=f"{NAMESPACE}---\n{FLOOR}")
    assert (result.exit_code, result.output) == (0, "1 policies, 0 errors, 0 warnings\n")


def explain(folder: Path, *words: str, code: int = 0) -> str:
    return dagwall("policy", "explain", "--files", folder, *words, code=code).output


def test_explain_without_an_agent(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, POLICY)
    who = ("--dag", "finance_daily", "--task", "load", "-n", "airflow")
    assert "allow: TCP to 192.0.2.9:443; by finance-egress/warehouse" in explain(
        tmp_path, *who, "--to", "192.0.2.9:443"
    )
    denied = explain(tmp_path, *who, "--to", "192.0.2.9:5432", code=3)
    assert denied.startswith("deny airflow/default/finance_daily/load (no pod of it is known)")
    assert "no rule allows it; nearest: finance-egress/warehouse lacks port 5432/TCP" in denied
    icmp = explain(tmp_path, *who, "--to", "192.0.2.9/icmp", code=3)
    assert "deny: ICMP to 192.0.2.9; no rule allows it; nearest: finance-egress/warehouse lacks protocol ICMP" in icmp


def test_explain_of_a_pod_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, POLICY, FLOOR, POD)
    got = json.loads(explain(tmp_path, "--pod", "airflow/p1", "--to", "192.0.2.9:443", "-o", "json"))
    assert [(answer["pod"], answer["identity"]) for answer in got] == [
        ("airflow/p1", "airflow/etl/finance_daily/load")
    ]
    text = explain(tmp_path, "--dag", "finance_daily", "--from", "192.0.2.9", "--to", ":8080")
    assert "allow: TCP from 192.0.2.9; by default-posture/observe" in text
    itself = explain(tmp_path, "--dag", "finance_daily", "--to", "pod:airflow/p1:443")
    assert "what stays in the pod is never judged" in itself


SERVER = POD.replace("name: p1", "name: server").replace("000001", "000002").replace("10.0.0.9", "10.0.0.10")
SERVER = SERVER.replace("finance_daily", "api").replace("load", "serve")
CLOSED = """\
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {name: closed, namespace: airflow}
spec:
  subject: {dagIds: [api]}
  ingress:
  - name: web
    from: [{tasks: {dagIds: [sales]}}]
    ports: [{port: 8080}]
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: airflow}
spec: {clusterIP: 10.96.0.10, ports: [{name: web, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-x, namespace: airflow, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.10], conditions: {ready: true}}]
ports: [{name: web, port: 8080, protocol: TCP}]
"""


def test_explain_judges_both_ends(tmp_path: Path) -> None:
    """P14"""
    write(tmp_path, NAMESPACE, POD, SERVER, CLOSED, SERVICE)
    for target in ("10.0.0.10:8080", "pod:airflow/server:8080", "airflow/api:80"):
        answers = json.loads(explain(tmp_path, "--pod", "airflow/p1", "--to", target, "-o", "json", code=3))
        assert [(a["end"], a["pod"], a["direction"], a["verdict"], a["port"]) for a in answers] == [
            ("asked", "airflow/p1", "egress", "allow", 80 if "api" in target else 8080),
            ("other", "airflow/server", "ingress", "deny", 8080),
        ]
    said = explain(tmp_path, "--pod", "airflow/p1", "--to", "10.0.0.10:8080", code=3)
    assert "deny at the other end, airflow/etl/api/serve (pod airflow/server)\n  deny: TCP from 10.0.0.9; " in said
    incoming = json.loads(
        explain(tmp_path, "--pod", "airflow/server", "--from", "10.0.0.9", "--to", ":8080", "-o", "json", code=3)
    )
    assert [(a["end"], a["verdict"]) for a in incoming] == [("asked", "deny"), ("other", "allow")]


def test_explain_judges_the_other_end_of_a_task_that_has_no_pod_yet(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, SERVER, CLOSED)
    words = ("-n", "airflow", "--to", "10.0.0.10:8080", "--pod-cidr", "10.0.0.0/16")
    assert "at the other end" in explain(tmp_path, "--dag", "finance", *words, code=3)
    assert "at the other end" in explain(tmp_path, "--dag", "sales", *words)
    said = explain(tmp_path, "--dag", "finance", *words[:4])
    assert (
        "not judged: the other end, pod airflow/server, as no address of this task is known; name the pods' " in said
    )


def test_explain_knows_its_namespaces(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE)
    said = explain(tmp_path, "--dag", "a", "-n", "airflwo", "--to", "192.0.2.9:443", code=1)
    assert "--namespace: no namespace 'airflwo' is known here (known: airflow)" in said


def test_explain_follows_the_flags(tmp_path: Path) -> None:
    write(tmp_path, NAMESPACE, POLICY)
    who = ("--dag", "finance_daily", "-n", "airflow", "--to", "192.0.2.9:5432")
    assert "audit: would be denied" in explain(tmp_path, *who, "--posture", "audit")
    metadata = ("--dag", "finance_daily", "-n", "airflow", "--to", "169.254.169.254:80")
    explain(tmp_path, *metadata, code=3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--to", "192.0.2.9:443"), 2, "name the pods: --dag (and --task), --pod, or --namespace"),
        (("--dag", "a", "-n", "airflow"), 2, "--to: must be HOST:PORT"),
        (("--dag", "a", "-n", "airflow", "--to", ":443"), 2, "--to: must be HOST:PORT"),
        (("--dag", "a", "--to", "192.0.2.9:443"), 1, "name its --namespace (managed ones: airflow)"),
        (("--dag", "a", "-n", "airflow", "--to", "192.0.2.9"), 1, "TCP needs a port from 1 to 65535"),
        (("--dag", "a", "-n", "airflow", "--to", "192.0.2.9:0"), 1, "TCP needs a port from 1 to 65535"),
        (("--dag", "a", "-n", "airflow", "--to", "192.0.2.9:70000"), 1, "TCP needs a port from 1 to 65535"),
        (("--dag", "a", "-n", "airflow", "--to", "db/none:1"), 1, "no address of 'db/none' is known"),
        (("--dag", "a", "-n", "airflow", "--to", "no-such-host.invalid:1"), 1, "has no address here"),
    ],
)
def test_questions_that_cannot_be_answered(tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    write(tmp_path, NAMESPACE)
    assert message in explain(tmp_path, *words, code=code)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.9:443", ("192.0.2.9", 443, "TCP")),
        ("192.0.2.9:53/UDP", ("192.0.2.9", 53, "UDP")),
        ("192.0.2.9/icmp", ("192.0.2.9", 0, "icmp")),
        ("192.0.2.9/47", ("192.0.2.9", 0, "47")),
        ("[2001:db8::1]:443", ("2001:db8::1", 443, "TCP")),
        ("2001:db8::1", ("2001:db8::1", 0, "TCP")),
        ("db/postgres:5432", ("db/postgres", 5432, "TCP")),
        ("db/postgres", ("db/postgres", 0, "TCP")),
        ("pod:db/pg-0:5432/tcp", ("pod:db/pg-0", 5432, "tcp")),
        ("api.stripe.com:443", ("api.stripe.com", 443, "TCP")),
        (":8080", ("", 8080, "TCP")),
        ("", ("", 0, "TCP")),
    ],
)
def test_targets(text: str, parts: tuple[str, int, str]) -> None:
    assert split_target(text) == parts


def test_explain_of_a_dns_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task would know the address by that name (fqdn peers), and no other task by its address alone."""
    answer = [(0, 0, 0, "", ("198.51.100.9", 0))]
    monkeypatch.setattr("agent.cli.policy.sockets.getaddrinfo", lambda *_, **__: answer)
    write(tmp_path, NAMESPACE, POLICY.replace("cidr: 192.0.2.0/24", 'fqdn: "*.example.org"'))
    who = ("--dag", "finance_daily", "-n", "airflow", "--to")
    assert "allow: TCP to 198.51.100.9:443" in explain(tmp_path, *who, "API.example.org.:443")
    explain(tmp_path, *who, "198.51.100.9:443", code=3)
    explain(tmp_path, *who, "example.org:443", code=3)
    assert "port 80" in explain(tmp_path, *who, "api.example.org:80", code=3), "the nearest rule lacks the port"


def test_explain_of_a_rule_with_tls(tmp_path: Path) -> None:
    tls = "ports: [{port: 443}]\n    tls: {serverNames: [api.example.org, '*.example.net']}"
    write(tmp_path, NAMESPACE, POLICY.replace("ports: [{port: 443}]", tls))
    who = ("--dag", "finance_daily", "--task", "load", "-n", "airflow", "--to", "192.0.2.9:443")
    assert (
        "allow: TCP to 192.0.2.9:443; by finance-egress/warehouse; "
        "if it begins with a TLS hello for api.example.org or *.example.net"
    ) in explain(tmp_path, *who)
    named = explain(tmp_path, *who, "--server-name", "A.Example.net")
    assert "by finance-egress/warehouse" in named
    assert "if it begins" not in named
    denied = explain(tmp_path, *who, "--server-name", "evil.example", code=3)
    assert "by finance-egress/warehouse; no rule allows the server name of its TLS hello" in denied


def test_explain_of_a_rule_with_http(tmp_path: Path) -> None:
    entries = "{methods: [GET, HEAD], host: api.internal, path: /v1/*}, {methods: [CONNECT], host: x.org}"
    http = f"ports: [{{port: 443}}]\n    http: [{entries}]"
    write(tmp_path, NAMESPACE, POLICY.replace("ports: [{port: 443}]", http))
    who = ("--dag", "finance_daily", "--task", "load", "-n", "airflow", "--to", "192.0.2.9:443")
    assert (
        "allow: TCP to 192.0.2.9:443; by finance-egress/warehouse; "
        "if it carries GET or HEAD of http://api.internal/v1/*, or CONNECT of http://x.org/*"
    ) in explain(tmp_path, *who)
    for allowed in ("GET http://API.internal/v1/a?b", "HEAD http://api.internal:443/v1/%61", "CONNECT x.org:443"):
        assert "by finance-egress/warehouse" in explain(tmp_path, *who, "--http", allowed)
    for text in (
        "POST http://api.internal/v1/a",
        "GET http://api.internal/v2",
        "GET http://evil/v1/",
        "CONNECT x.org:22",
    ):
        denied = explain(tmp_path, *who, "--http", text, code=3)
        assert "by finance-egress/warehouse; no rule allows this request" in denied
    assert "has a segment" in explain(tmp_path, *who, "--http", "GET http://api.internal/v1/../x", code=3)
    assert "its rule asks for HTTP/1" in explain(tmp_path, *who, "--server-name", "api.internal", code=3)
    assert "is too long" in explain(tmp_path, *who, "--http", f"GET http://api.internal/v1/{'a' * 1024}", code=3)
    for text in ("GET /v1", "G_T http://api.internal/", f"{'A' * 16} http://api.internal/", "GET http://hé/",
                 "CONNECT http://x.org:443", "CONNECT x.org", "CONNECT x.org:0", "GET x.org/v1"):  # fmt: skip
        assert "is no request; allowed" in explain(tmp_path, *who, "--http", text, code=1), text
