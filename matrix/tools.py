"""QEMU and virtiofsd: this machine's where they are new enough, else Debian 13's, unpacked into the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from matrix.debian import Say, root_file_system

QEMU_FLOOR = 10
"""Version 7.2 leaves garbage in the flags after cmpxchg16b (a double fault in new kernels), and is half as fast."""

CPU = "max,la57=off"
"""5.10 does not boot with five-level page tables."""

_PACKAGES = "qemu-system-x86,seabios,ipxe-qemu,virtiofsd"
_VIRTIOFSD = Path("/usr/libexec/virtiofsd")


@dataclass(frozen=True, slots=True)
class Tools:
    """Commands to begin with, and whether KVM works here."""

    qemu: tuple[str, ...]
    virtiofsd: tuple[str, ...]
    kvm: bool


def major_version(said: str) -> int:
    """Of `qemu-system-x86_64 --version`; 0 where it says something else."""
    found = re.search(r"version (\d+)\.", said)
    return int(found.group(1)) if found else 0


def find_tools(say: Say) -> Tools:
    """What is installed, or what can be unpacked."""
    qemu, virtiofsd = _installed() or _unpacked(say)
    return Tools(qemu, virtiofsd, _kvm_works(qemu))


def _installed() -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or not _VIRTIOFSD.exists():
        return None
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    return ((qemu,), (str(_VIRTIOFSD),)) if major_version(said) >= QEMU_FLOOR else None


def _unpacked(say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
    root = root_file_system("trixie", "qemu", _PACKAGES, say, variant="extract")
    libraries = f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu/pulseaudio"
    run = (f"{root}/usr/lib64/ld-linux-x86-64.so.2", "--library-path", libraries)
    firmware = ("-L", f"{root}/usr/share/qemu", "-L", f"{root}/usr/share/seabios")
    return (*run, f"{root}/usr/bin/qemu-system-x86_64", *firmware), (*run, f"{root}/usr/libexec/virtiofsd")


def _kvm_works(qemu: tuple[str, ...]) -> bool:
    """/dev/kvm may be there and still not run a guest: try. In a virtual machine only if MATRIX_KVM=1 says so: where
    the nesting passes on half of it, a guest starts and hangs at the first instruction that is missing.
    """
    nested = " hypervisor" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or (nested and os.environ.get("MATRIX_KVM") != "1"):
        return False
    machine = ("-machine", "pc", "-accel", "kvm", "-cpu", CPU, "-nodefaults", "-display", "none")
    command = [*qemu, *machine, "-S", "-monitor", "stdio"]
    try:
        done = subprocess.run(command, input=b"quit\n", capture_output=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
