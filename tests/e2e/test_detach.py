"""Dagwall is taken off, as README.md says, and put back."""

from __future__ import annotations

from tests.e2e import programs
from tests.e2e.agents import ROOT, daemonset, documents
from tests.e2e.cluster import wait_for
from tests.e2e.workloads import PORT, REFUSED, Rig, Start, task


def test_it_goes_without_a_trace_and_comes_back(rig: Rig, tasks: Start) -> None:
    tasks(task("left", programs.SERVE))
    forbidden = f"tcp,{rig.servers['forbidden']},{PORT}"
    (detach,) = documents(ROOT / "deploy/detach.yaml")
    try:
        rig.cluster.delete(daemonset())
        wait_for("end of the agents", lambda: not rig.agents.pods())
        assert rig.attempt("left", forbidden)[0] in REFUSED, "pins hold without an agent"
        rig.cluster.apply(detach)
        wait_for("end of the programs", lambda: rig.cluster.get(detach)["status"].get("numberReady") == 1)
        assert rig.attempt("left", forbidden) == ["ok"]
    finally:
        rig.cluster.delete(detach)
        rig.agents.install()
    rig.judge("left")
