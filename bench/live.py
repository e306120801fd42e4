"""Time inside the programs, as the kernel measures it (bpf_stats), minus that of empty programs on the same hooks."""

from __future__ import annotations

import os
import statistics
import struct
import tempfile
from pathlib import Path

from agent.kernel import syscall
from agent.kernel.probe import features
from bench.contestants import ADDRESS, Attached, dagwall, empty_programs
from bench.endtoend import LOADS, LONG, UNMANAGED, YOUNG, Load, tune
from lab.node import ScratchNode, cgroup_mount

Times = dict[str, dict[str, float]]
"""contestant -> hook -> ns a call over the floor, median over the loads."""


def measure(mode: str, milliseconds: int) -> Times:
    """One mode. Never together with the end-to-end part: timing costs some 30 ns a call."""
    with ScratchNode() as node, tempfile.TemporaryDirectory() as folder:
        pod = node.add_pod()
        node.add_addresses(ADDRESS)
        tune(node, pod)
        found, load = features(cgroup_mount()), Load(node, pod, Path(folder))
        switch, _ = syscall.bpf(syscall.Command.ENABLE_STATS, struct.pack("=I", 0))
        try:
            floor = _medians([empty_programs(node.kubepods, n) for n in range(LOADS)], load, mode, milliseconds)
            return {
                variant.name: _over(
                    floor,
                    _medians([dagwall(node, pod, variant, found, n) for n in range(LOADS)], load, mode, milliseconds),
                )
                for variant in (LONG, YOUNG, UNMANAGED)
            }
        finally:
            os.close(switch)
            load.close()


def _medians(loads: list[Attached], load: Load, mode: str, milliseconds: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {}
    for contestant in loads:
        contestant.up()
        load.ns_per_operation(mode, milliseconds // 4)
        before = {hook: syscall.prog_info(fd) for hook, fd in contestant.programs().items()}
        load.ns_per_operation(mode, milliseconds)
        for hook, fd in contestant.programs().items():
            after = syscall.prog_info(fd)
            calls = after.run_count - before[hook].run_count
            if calls > 100:
                seen.setdefault(hook, []).append((after.run_time_ns - before[hook].run_time_ns) / calls)
        contestant.down()
        contestant.close()
    return {hook: statistics.median(values) for hook, values in seen.items()}


def _over(floor: dict[str, float], times: dict[str, float]) -> dict[str, float]:
    return {hook: ns - floor[hook] for hook, ns in times.items() if hook in floor}
