"""This process: how old it is, and how much memory it has."""

from __future__ import annotations

import os
import time


def process_age_seconds() -> float:
    """Time since this process was started (proc(5), stat, field 22; ticks since boot)."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes() -> int:
    """Memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
