"""Writes deploy/base/crds from agent.parse.definitions, and daemonset.yaml from deploy/base; `make manifests`."""

from __future__ import annotations

from pathlib import Path

import yaml

from agent.parse.definitions import definitions

ROOT = Path(__file__).parents[1]
BASE = Path("deploy/base")
_HEADER = """\
# Dagwall on every node: kubectl apply -f daemonset.yaml
#
# All that it needs, in one file: made by `make manifests` from deploy/base, where it is to be changed. What people
# vary is in deploy/overlays; deploy/startup-taint.yaml keeps tasks off nodes whose agent has not been ready yet.
# `kubectl delete -f` of this file deletes the definitions, and with them every policy; to take the agent away and
# keep them, delete the DaemonSet.
"""


def texts() -> dict[Path, str]:
    """Contents by path from the project's root."""
    crds = {
        BASE / "crds" / f"{definition['spec']['names']['plural']}.yaml": yaml.safe_dump(
            definition, sort_keys=False, width=110
        )
        for definition in definitions()
    }
    base = (ROOT / BASE / "daemonset.yaml").read_text(encoding="utf-8")
    return crds | {Path("daemonset.yaml"): "---\n".join([_HEADER, *crds.values(), base])}


if __name__ == "__main__":
    for path, text in texts().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
