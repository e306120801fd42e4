"""What is kept of policies for the next agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import StateError
from agent.sources.essence import essence
from agent.sources.last_valid import LastValid

POLICY = {
    "apiVersion": "dagwall.io/v1alpha1",
    "kind": "TaskNetworkPolicy",
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3, "managedFields": ["long"]},
    "spec": {"egress": []},
    "status": {"nodes": 1},
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    kept = LastValid(tmp_path / "file")
    assert kept.read() == {}
    kept.write([essence(POLICY)])
    (found,) = LastValid(tmp_path / "file").read().values()
    assert found["metadata"] == {"name": "p", "namespace": "n", "uid": "u", "generation": 3}
    assert found["spec"] == {"egress": []}
    assert "status" not in found


def test_the_same_is_not_written_twice(tmp_path: Path) -> None:
    kept = LastValid(tmp_path / "file")
    kept.write([essence(POLICY)])
    kept.path.unlink()
    kept.write([essence(POLICY)])
    assert not kept.path.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', '{"version": 1, "objects": [1]}'])
def test_a_damaged_file_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert LastValid(tmp_path / "file").read() == {}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        LastValid(tmp_path / "no" / "file").write([])


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "last-valid.json"
    path.write_text("{}")
    path.chmod(0o644)
    LastValid(path).write([])
    assert path.stat().st_mode & 0o777 == 0o600
