"""A C compiler judges agent/abi and the enumerations against bpf/types.h. Needs cc and the host's linux/types.h."""

from __future__ import annotations

import re
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from agent.abi import structs
from agent.abi.checks import claims, static_assertions
from agent.abi.layout import Layout
from agent.model import verdict, want
from agent.model.identity import FIRST_IDENTITY

BPF = Path(__file__).parents[2] / "bpf"

ENUMS: dict[str, type[IntEnum]] = {
    "DIRECTION": verdict.Direction,
    "VERDICT": verdict.Verdict,
    "LIFT": want.Lift,
    "DROP": verdict.DropReason,
    "STATE": verdict.EndpointState,
    "HOOK": verdict.Hook,
    "EVENT": verdict.EventKind,
    "LOSS": verdict.Loss,
    "CAUSE": verdict.Cause,
}
CONSTANTS = {
    "ABI_VERSION": structs.ABI_VERSION,
    "IDENTITY_SLOTS": structs.IDENTITY_SLOTS,
    "ENDPOINT_SLOTS": structs.ENDPOINT_SLOTS,
    "NEARBY_SLOTS": structs.NEARBY_SLOTS,
    "CREATOR_SLOTS": structs.CREATOR_SLOTS,
    "POD_LEVELS": structs.POD_LEVELS,
    "COMM_BYTES": structs.COMM_BYTES,
    "OPENED_BY_US": structs.OPENED_BY_US,
    "OPENED_BY_PEER": structs.OPENED_BY_PEER,
    "FIRST_IDENTITY": FIRST_IDENTITY,
    "LOSS_MAX": len(verdict.Loss),
    "ENDPOINT_HOST_NETWORK": structs.FLAG_HOST_NETWORK,
    "ENDPOINT_RAW_SOCKETS": structs.FLAG_RAW_SOCKETS,
    "ENDPOINT_AUDIT_SOCKETS": structs.FLAG_AUDIT_SOCKETS,
}


def compile_c(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    source = tmp_path / "judge.c"
    source.write_text(f'#include <stddef.h>\n#include "types.h"\n{body}\n')
    command = ["cc", "-std=c11", "-fsyntax-only", "-Wall", "-Werror", f"-I{BPF}", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("layout", structs.STRUCTS, ids=lambda layout: layout.name)
def test_struct_has_the_compilers_sizes_and_offsets(layout: Layout, tmp_path: Path) -> None:
    result = compile_c(tmp_path, static_assertions(claims(layout)))
    assert result.returncode == 0, result.stderr


def test_every_struct_of_the_header_is_mirrored() -> None:
    declared = set(re.findall(r"^struct (\w+) \{", (BPF / "types.h").read_text(), re.MULTILINE))
    assert declared == {layout.name for layout in structs.STRUCTS} | {"address", "traffic"}


def test_enumerations_and_limits_have_the_same_numbers(tmp_path: Path) -> None:
    lines = [f"{prefix}_{member.name} == {member.value}" for prefix, of in ENUMS.items() for member in of]
    lines += [f"{name} == {value}" for name, value in CONSTANTS.items()]
    result = compile_c(tmp_path, static_assertions(lines))
    assert result.returncode == 0, result.stderr


def test_a_wrong_offset_is_noticed(tmp_path: Path) -> None:
    assert compile_c(tmp_path, static_assertions(["offsetof(struct flow, epoch) == 8"])).returncode != 0


def test_no_enumerator_of_the_header_is_missing_in_python() -> None:
    text = (BPF / "types.h").read_text()
    for prefix, of in ENUMS.items():
        in_c = set(re.findall(rf"\b({prefix}_[A-Z0-9_]+) = \d", text)) - {"LOSS_MAX"}
        assert in_c == {f"{prefix}_{member.name}" for member in of}, prefix
