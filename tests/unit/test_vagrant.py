"""vagrant/ and the scripts: valid as far as that can be told without booting anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VAGRANT = ROOT / "vagrant"
SCRIPTS = sorted([*ROOT.glob("scripts/**/*.sh"), *VAGRANT.glob("*.sh")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_executable(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("vagrant") is None, reason="vagrant is not installed")
def test_the_vagrantfile_is_valid() -> None:
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"], cwd=VAGRANT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_stage_is_there_and_told() -> None:
    script = (VAGRANT / "provision.sh").read_text()
    listed = re.search(r"^all=\((.*)\)$", script, re.MULTILINE)
    assert listed
    stages = listed[1].split()
    assert sorted(re.findall(r"^stage_(\w+)\(\)", script, re.MULTILINE)) == sorted(stages)
    told = re.findall(r"^\| (\w+) \|", (VAGRANT / "README.md").read_text(), re.MULTILINE)
    assert told == ["stage", *stages]
    assert set(re.findall(r"^#   (\w+) ", script, re.MULTILINE)) == set(stages)


def test_the_cluster_s_and_the_chart_s_files_are_yaml() -> None:
    assert yaml.safe_load((VAGRANT / "kind.yaml").read_text())["kind"] == "Cluster"
    assert yaml.safe_load((VAGRANT / "airflow.yaml").read_text())["executor"] == "KubernetesExecutor"


def test_the_example_s_policy_is_valid() -> None:
    command = [sys.executable, "-m", "agent", "policy", "check", VAGRANT / "policy.yaml"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
