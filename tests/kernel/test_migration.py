"""From one release to the next with other structs in the maps, and back: enforcement has no gap, counters survive.

The next release is this one with another ABI: a field more in front of each denial and flow, one more in identities'
counts.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from agent.abi.layout import Layout, nested, u64
from agent.abi.structs import ABI_VERSION, DENIAL, DENIAL_KEY, IDENTITY_COUNTS, IDENTITY_TOTALS, U32, MapSpec
from agent.kernel import syscall
from agent.kernel.maps import KernelMap, sum_per_cpu
from agent.kernel.pins import Pins
from tests.kernel.agent_process import START_SECONDS, AgentProcess
from tests.kernel.test_agent import Machine
from tests.kernel.test_faults import Traffic, machine, managed_pod  # noqa: F401  machine is a fixture
from tests.kernel.test_upgrade import started

ROOT = Path(__file__).parents[2]
_NEXT = ABI_VERSION + 1
_EDITS = [
    ("bpf/types.h", f"#define ABI_VERSION {ABI_VERSION}", f"#define ABI_VERSION {_NEXT}"),
    ("bpf/types.h", "struct denial { /* value of `denials` */\n", "struct denial {\n\t__u64 first_ns;\n"),
    ("bpf/types.h", "sizeof(struct denial) == 16", "sizeof(struct denial) == 24"),
    ("bpf/types.h", "\t__u64 denied_bytes;\n", "\t__u64 denied_bytes;\n\t__u64 spare;\n"),
    ("bpf/types.h", "sizeof(struct identity_totals) == 128", "sizeof(struct identity_totals) == 144"),
    ("bpf/types.h", "at once */\n\t__u64 stamp;", "at once */\n\t__u64 opened_ns;\n\t__u64 stamp;"),
    ("bpf/types.h", "sizeof(struct flow) == 88", "sizeof(struct flow) == 96"),
    ("agent/abi/structs.py", f"ABI_VERSION = {ABI_VERSION}", f"ABI_VERSION = {_NEXT}"),
    ("agent/abi/structs.py", '    "flow",\n', '    "flow",\n    opened_ns=u64,\n'),
    ("agent/abi/structs.py", 'Layout("denial", packets=u64', 'Layout("denial", first_ns=u64, packets=u64'),
    ("agent/abi/structs.py", "    denied_bytes=u64,\n", "    denied_bytes=u64,\n    spare=u64,\n"),
    ("agent/flows/decode.py", "width = len(_COUNTERS)", "width = len(_COUNTERS) + 1"),
]
_COUNTS = Layout("identity_counts", **IDENTITY_COUNTS.fields, spare=u64)
_SPECS = {
    ABI_VERSION: (MapSpec(DENIAL_KEY, DENIAL, 0), MapSpec(U32, IDENTITY_TOTALS, 0, per_cpu=True)),
    _NEXT: (
        MapSpec(DENIAL_KEY, Layout("denial", first_ns=u64, **DENIAL.fields), 0),
        MapSpec(U32, Layout("identity_totals", by=nested(_COUNTS, 2)), 0, per_cpu=True),
    ),
}


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    tree = tmp_path / "next"
    for part in ("agent", "bpf", "tests", "lab"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name, old, new in _EDITS:
        text = (tree / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, (name, old)
        (tree / name).write_text(text.replace(old, new), encoding="utf-8")
    return tree


def totals(pins: Path, abi: int) -> dict[object, int]:
    """Packets denied by key, and everything that the first identities did, as the pins of this ABI have it."""
    folder = Pins(pins, abi).maps
    denials, identities = (
        KernelMap(name, syscall.open_pin(str(folder / name)), spec)
        for name, spec in zip(("denials", "identities"), _SPECS[abi], strict=True)
    )
    found: dict[object, int] = {
        key: int(denials.spec.value.unpack(value)["packets"]) for key, value in denials.items()
    }
    words = identities.spec.value.size // 8
    for slot in range(4):
        sums = sum_per_cpu(identities.get(U32.pack(value=slot)) or b"", words)
        for direction in range(2):
            own = sums[direction * words // 2 :][: len(IDENTITY_COUNTS.fields)]
            found |= {(slot, direction, name): count for name, count in zip(IDENTITY_COUNTS.fields, own, strict=True)}
    denials.close()
    identities.close()
    return found


def test_the_next_release_takes_over_under_load_and_the_one_before_does_not_take_it_back(
    machine: Machine,  # noqa: F811
    next_release: Path,
) -> None:
    pod = managed_pod(machine)
    config, ready = machine.config(), machine.folder / "ready"
    first = AgentProcess(config, ready)
    traffic = Traffic(pod)
    assert traffic.flows()
    assert first.stop() == 0, first.errors
    before = totals(config.pins, ABI_VERSION)
    assert any(count > 20 for count in before.values())
    second = AgentProcess(config, ready, next_release)
    assert ready.read_text() == "adopted"
    assert not Pins(config.pins, ABI_VERSION).version.exists(), "nothing of the old release is left"
    assert traffic.flows()
    after = totals(config.pins, _NEXT)
    assert {key: (count, after.get(key)) for key, count in before.items() if after.get(key, 0) < count} == {}
    assert sum(after.values()) > sum(before.values()), "and it goes on counting"
    assert second.stop() == 0, second.errors
    with pytest.raises(
        AssertionError, match=rf"newer release of dagwall .ABI {_NEXT}, this one's is {ABI_VERSION}. is in"
    ):
        AgentProcess(config, ready)
    assert traffic.flows(), "theirs stays in force"
    third = AgentProcess(config, ready, next_release)
    assert third.stop() == 0, third.errors
    traffic.end()


STEPS = ("MAP_UPDATE_BATCH:1", "OBJ_PIN:1", "LINK_UPDATE:1", "LINK_UPDATE:4", "LINK_UPDATE:7")
"""Copying; the schema, when all is copied; between programs; before what the old ones counted meanwhile is added."""


@pytest.mark.parametrize("step", STEPS)
def test_a_death_on_the_way_is_made_good_by_the_next_start(
    machine: Machine,  # noqa: F811
    next_release: Path,
    step: str,
) -> None:
    """Some hooks have the new programs then, some the old ones; each judges by maps that are whole."""
    pod = managed_pod(machine)
    config, ready = machine.config(), machine.folder / "ready"
    AgentProcess(config, ready).kill()
    traffic = Traffic(pod)
    assert traffic.flows()
    before = totals(config.pins, ABI_VERSION)
    with started(config, ready, next_release, env=os.environ | {"DIE_AT": step}) as process:
        assert process.wait(START_SECONDS) == -signal.SIGKILL
    assert Pins(config.pins, ABI_VERSION).version.exists()
    assert traffic.flows()
    last = AgentProcess(config, ready, next_release)
    assert ready.read_text() == "adopted"
    assert traffic.flows()
    assert not Pins(config.pins, ABI_VERSION).version.exists()
    after = totals(config.pins, _NEXT)
    assert {key: (count, after.get(key)) for key, count in before.items() if after.get(key, 0) < count} == {}
    assert last.stop() == 0, last.errors
    traffic.end()


def test_a_newer_release_that_never_came_into_force_does_not_bar_the_way_back(machine: Machine) -> None:  # noqa: F811
    """It died while it was loaded, and was rolled back."""
    config, ready = machine.config(), machine.folder / "ready"
    assert AgentProcess(config, ready).stop() == 0
    Pins(config.pins, _NEXT).maps.mkdir(parents=True)
    back = AgentProcess(config, ready)
    assert ready.read_text() == "adopted"
    assert not Pins(config.pins, _NEXT).version.exists()
    assert back.stop() == 0, back.errors
