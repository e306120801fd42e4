"""The audit log as an output: what it says of denials and of what changes, and what it does without room or disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from immutables import Map

from agent.cli import main
from agent.model.binding import Contradiction
from agent.model.cluster import Namespace, Settings
from agent.model.node_state import NodeState, View
from agent.model.policy import CidrPeer, DefaultPosture, Policy, PolicyRef, PortMatch, Posture, Rule, Subject
from agent.model.report import HookState
from agent.model.validated import ValidatedPolicy, Written
from agent.model.verdict import Direction, EndpointState, Verdict
from agent.outputs.audit import log as log_module
from agent.outputs.audit.entries import differences, of_denial
from agent.outputs.audit.journal import Journal
from agent.outputs.audit.log import AuditLog
from agent.outputs.audit.verify import verify
from tests.unit.seen import ROW, STATE, TOTALS, VIEW, denial, endpoint
from tests.unit.test_audit_chain import KEYS, SIGNER

BANK = Rule("bank", Direction.EGRESS, (CidrPeer(ip_network("203.0.113.0/24")),), (PortMatch(6, 443),))
REF = PolicyRef("airflow", "TaskNetworkPolicy", "finance")
POLICY = Policy(REF, Subject(), egress=(BANK,))
WRITTEN = Written("kubectl-edit", "Update", "2026-11-30T10:00:00Z", "4711")


def with_policy(policy: Policy, state: NodeState = STATE) -> NodeState:
    known = ValidatedPolicy(policy.ref, 3, 3, policy, written=WRITTEN)
    return replace(state, cluster=replace(state.cluster, policies=Map({policy.ref: policy})), validated=(known,))


def with_row(state: NodeState, /, **changes: Any) -> NodeState:
    row = replace(ROW, **changes)
    return replace(state, endpoints={row.uid: row})  # type: ignore[dict-item]


def kinds(before: NodeState | None, now: NodeState) -> list[str]:
    return [entry["kind"] for entry in differences(before, now)]


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


class Logged:
    def __init__(self, path: Path, **how: Any) -> None:
        self.path, self.view = path, VIEW
        self.log = AuditLog(Journal(path, SIGNER), "n1", self._view, **how)
        self.log.start()

    def _view(self) -> View:
        return self.view

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []

    def has(self, kind: str) -> bool:
        return any(record["kind"] == kind for record in self.records())


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    found = Logged(tmp_path / "audit.log")
    yield found
    found.log.stop()


def test_a_denial_has_the_nouns_of_the_other_outputs() -> None:
    """R1, R3."""
    expected = {
        "kind": "denial", "verdict": "deny", "reason": "no_rule", "dag_id": "finance", "address": "192.0.2.9",
        "port": 5432, "pod_uid": "uid-1", "hook": "connect",
    }  # fmt: skip
    said = of_denial(denial())
    assert expected.items() <= said.items()
    assert said["nearest"]


def test_a_policy_s_change_is_told_rule_by_rule_with_who_wrote_it() -> None:
    before = with_policy(POLICY)
    other = replace(BANK, name="partner", ports=None)
    changed = replace(POLICY, egress=(replace(BANK, ports=(PortMatch(6, 8443),)), other), posture=Posture.AUDIT)
    (entry,) = differences(before, with_policy(changed))
    assert (entry["policy"], entry["change"], entry["generation"]) == (str(REF), "changed", 3)
    assert (entry["manager"], entry["resource_version"], entry["written_at"]) == (
        "kubectl-edit", "4711", "2026-11-30T10:00:00Z"
    )  # fmt: skip
    rules = {each["rule"]: (each["before"], each["after"]) for each in entry["rules"]}
    assert rules.keys() == {"egress/bank", "egress/partner", "posture"}
    assert (rules["egress/bank"][0]["ports"][0]["port"], rules["egress/bank"][1]["ports"][0]["port"]) == (443, 8443)
    assert rules["egress/partner"][0] is None
    assert rules["posture"] == ("enforce", "audit")
    gone = replace(before, cluster=replace(before.cluster, policies=Map()), validated=())
    (went,) = differences(before, gone)
    assert (went["change"], went["manager"], {each["after"] for each in went["rules"]}) == ("went", "", {None})


def test_what_changes_is_told_and_what_does_not_is_not() -> None:
    assert kinds(STATE, STATE) == []
    assert kinds(STATE, replace(STATE, at=5.0)) == []
    assert kinds(None, STATE) == ["policy"] * 4 + ["posture", "identity"]
    contradiction = Contradiction(endpoint().identity, "b", keeps=False)
    caught = with_row(STATE, state=EndpointState.QUARANTINED, binding="b", contradictions=(contradiction,))
    (entry,) = differences(STATE, caught)
    assert (entry["kind"], entry["binding"], entry["pod"]) == ("quarantine", "b", "finance-load-x1")
    assert "does not allow it" in entry["why"][0]
    assert kinds(caught, STATE) == ["quarantine_end", "identity"]
    assert kinds(STATE, replace(STATE, endpoints={})) == ["identity_end"]
    assert kinds(STATE, with_row(STATE, policies=(REF,))) == ["identity"]
    assert kinds(STATE, with_row(STATE, ruleset=9)) == []
    spaces = Map({"airflow": Namespace("airflow", managed=True, default_posture=DefaultPosture.DENY)})
    (entry,) = differences(STATE, replace(STATE, cluster=replace(STATE.cluster, namespaces=spaces)))
    assert (entry["before"]["default_posture"], entry["after"]["default_posture"]) == (None, "deny")
    off = HookState("egress", "/kubepods", attached=False, program_id=0)
    detached = replace(STATE, status=replace(STATE.status, hooks=(off,)))
    assert [*kinds(STATE, detached), *kinds(detached, STATE)] == ["detach", "attach"]
    assert kinds(STATE, replace(STATE, status=replace(STATE.status, hooks=()))) == ["detach"]


def test_a_start_and_a_stop_are_told_and_the_versions_of_both(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audited = replace(STATE, cluster=replace(STATE.cluster, settings=Settings(audit_everything=True)))
    for version in ("0.1.0", "0.2.0"):
        logged = Logged(path)
        logged.log.report(replace(audited, facts=replace(STATE.facts, version=version)))
        logged.log.denials([denial(), denial(verdict=Verdict.ALLOW)])
        logged.log.stop()
    records = logged.records()
    first, second = (record for record in records if record["kind"] == "agent_start")
    assert (first["version"], first["posture"], "clean" in first) == ("0.1.0", "audit", False)
    assert (second["version"], second["version_before"], second["clean"]) == ("0.2.0", "0.1.0", True)
    assert [record["kind"] for record in records].count("agent_stop") == 2
    assert [record["kind"] for record in records].count("denial") == 2, "an allowed connection is no denial"
    found = verify(path, KEYS)
    assert (found.problems, found.doubts, found.signed) == ((), (), len(records))


def test_an_end_that_somebody_cut_off_is_told_by_the_next_agent(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "audit.log")
    logged.log.report(STATE)
    assert eventually(lambda: logged.has("identity"))
    logged.log.denials([denial()])
    logged.log.stop()
    lines = logged.path.read_bytes().splitlines(keepends=True)
    logged.path.write_bytes(b"".join(lines[:-2]))
    later = Logged(logged.path)
    later.log.report(STATE)
    later.log.stop()
    (problem,) = verify(logged.path, KEYS).problems
    assert "were gone when an agent started: truncated" in problem


def test_what_finds_no_room_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holds = threading.Event()
    monkeypatch.setattr(Journal, "append", _held(Journal.append, holds))
    logged = Logged(tmp_path / "audit.log", queued=10)
    began = time.perf_counter()
    logged.log.report(STATE)
    time.sleep(0.2)
    for _ in range(5):
        logged.log.denials([denial()] * 4)
    assert time.perf_counter() - began < 2, "a disk that hangs holds up nobody"
    assert logged.log.losses()["audit_queue"] == 12
    holds.set()
    logged.log.stop()
    (gap,) = (record for record in logged.records() if record["kind"] == "gap")
    assert gap["lost"] == {"queue": 12}
    assert verify(logged.path, KEYS).problems == ()


def _held(append: Callable[..., None], until: threading.Event) -> Callable[..., None]:
    def held(journal: Journal, records: Any) -> None:
        until.wait(20)
        append(journal, records)

    return held


def test_a_full_disk_is_loud_and_counted_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "RETRY_SECONDS", 0.05)
    path = tmp_path / "audit.log"
    path.symlink_to("/dev/full")
    events: list[str] = []
    monkeypatch.setattr(log_module, "event", lambda name, **_: events.append(name))
    logged = Logged(path)
    logged.log.report(STATE)
    assert eventually(lambda: logged.log.losses()["audit_write"] > 0)
    assert events == ["audit.failed"]
    path.unlink()
    logged.log.denials([denial()])
    assert eventually(lambda: path.exists() and logged.has("denial"))
    gap = next(record for record in logged.records() if record["kind"] == "gap")
    assert gap["lost"]["write"] == logged.log.losses()["audit_write"]
    assert eventually(lambda: "audit.mended" in events)
    logged.log.stop()
    assert verify(path, KEYS).problems == ()


def test_a_part_of_a_batch_that_a_full_disk_took_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "RETRY_SECONDS", 0.05)
    logged = Logged(tmp_path / "audit.log")
    logged.log.report(STATE)
    assert eventually(lambda: logged.has("identity"))
    write, once = Journal._write, [True]

    def short(journal: Journal, data: bytes) -> None:
        if once and len(data) > 10:
            once.clear()
            write(journal, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(journal, data)

    monkeypatch.setattr(Journal, "_write", short)
    logged.log.denials([denial()])
    assert eventually(lambda: logged.log.losses()["audit_write"] > 0)
    logged.log.denials([denial()])
    logged.log.stop()
    found = verify(logged.path, KEYS)
    assert found.problems == ()
    assert "bytes are no whole record" in found.doubts[0]
    said = [json.loads(line)["kind"] for line in logged.path.read_bytes().splitlines() if line.endswith(b"}")]
    assert said[-4:] == ["resumed", "gap", "denial", "agent_stop"]


def test_losses_of_the_whole_agent_are_records(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LOSSES_SECONDS", 0.05)
    logged.log.report(STATE)
    assert eventually(lambda: logged.has("losses"))
    logged.view = replace(VIEW, totals=replace(TOTALS, losses={**TOTALS.losses, "ring_full": 7}))
    logged.log.report(STATE)
    assert eventually(lambda: [r["lost"] for r in logged.records() if r["kind"] == "losses"][-1] == {"ring_full": 7})


def test_reports_that_wait_become_one(tmp_path: Path) -> None:
    """Without a disk for hours they would hold as many snapshots."""
    log = AuditLog(Journal(tmp_path / "no" / "a", SIGNER), "n1", lambda: None)
    for second in range(1000):
        log.report(replace(STATE, at=float(second)))
    assert len(log._reports) == log_module.REPORTS
    assert log._reports[-1].at == 999.0


def test_a_record_that_is_too_long_is_told_by_its_hash(logged: Logged) -> None:
    rules = tuple(replace(BANK, name=f"r{n}", reason="x" * 400) for n in range(1000))
    logged.log.report(with_policy(replace(POLICY, egress=rules)))
    assert eventually(lambda: logged.has("identity"))
    long = next(record for record in logged.records() if record.get("policy") == str(REF))
    assert long["too_long"] > 200_000
    assert "rules" not in long


def test_the_commands(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "audit.log")
    logged.log.report(with_row(with_policy(POLICY), policies=(REF,)))
    logged.log.denials([denial(), denial(), denial("sales")])
    logged.log.stop()
    (tmp_path / "key.pem").write_bytes(SIGNER.public_pem())

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["audit", *words])
        return done.exit_code, done.output

    log, key = str(logged.path), ("--public-key", str(tmp_path / "key.pem"))
    count = len(logged.records())
    assert run("verify", log, *key) == (0, f"records 1 to {count} are whole, signed through {count}\n")
    code, text = run("verify", log)
    assert (code, text.splitlines()[0]) == (3, "warning signatures were not checked: no --public-key was given")
    code, text = run("verify", log, *key, "--head", f"{count + 1}:{'0' * 64}")
    assert (code, text.splitlines()[0]) == (
        1, f"error the log ends with record {count}, and the head that was kept is {count + 1}: truncated"
    )  # fmt: skip
    code, text = run("report", log, "--dag", "finance", "-o", "json")
    said = json.loads(text)
    assert [(each["count"], each["dag_id"], each["port"]) for each in said["denied"]] == [(2, "finance", "5432")]
    assert [each["rule"] for each in said["reachable"]] == ["attestation", "egress", "egress/bank", *(
        ["posture", "raw_sockets", "subject"]
    )]  # fmt: skip
    assert [each["manager"] for each in said["policies"] if each["policy"] == str(REF)] == ["kubectl-edit"]
    code, text = run("report", log, "--dag", "nobody")
    assert code == 0
    assert "finance" not in text.partition("Changes of policies")[0]
    code, text = run("report", log)
    assert "kubectl-edit" in text
    (tmp_path / "made").write_text('{"kind":"policy","seq":1,"time":"yesterday"}\n')
    assert run("report", str(tmp_path / "made")) == (
        1, "Error: record 1 is not as dagwall writes it: verify the log\n"
    )  # fmt: skip
    assert run("verify", str(tmp_path / "none"))[0] == 1
    assert run("verify", log, "--head", "x")[0] == 2
