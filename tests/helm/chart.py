"""The chart as helm 4 renders it. Programs: DAGWALL_KUBE_TOOLS, else the cache that scripts/kube-tools.sh fills."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "dagwall"
VALUES = Path(__file__).parent / "values"
NAMESPACE = "dagwall-system"

Objects = dict[tuple[str, str], dict[str, Any]]


@functools.cache
def tools() -> Path:
    """A folder with helm and kubectl."""
    script = str(ROOT / "scripts" / "kube-tools.sh")
    done = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """With no folder of the user's own."""
    with tempfile.TemporaryDirectory() as home:
        own = {f"HELM_{kind}_HOME": f"{home}/{kind.lower()}" for kind in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [str(tools() / "helm"), *words], capture_output=True, text=True, check=False, timeout=60,
            env=os.environ | own, cwd=ROOT,
        )  # fmt: skip


def template(*words: str, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
    return helm("template", "dagwall", str(CHART), "--include-crds", f"--namespace={namespace}", *words)


def by_name(text: str) -> Objects:
    documents = [obj for obj in yaml.safe_load_all(text) if obj]
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in documents}
    assert len(found) == len(documents), "two objects of one name"
    return found


def rendered(*words: str, namespace: str = NAMESPACE) -> Objects:
    done = template(*words, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def values_file(name: str) -> str:
    return f"--values={VALUES / name}.yaml"


def agent_of(objects: Objects) -> dict[str, Any]:
    """The agent's container."""
    found: dict[str, Any]
    (found,) = objects[("DaemonSet", "dagwall-agent")]["spec"]["template"]["spec"]["containers"]
    return found
