"""One guest: QEMU with shared folders, a console, and records that come while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrix import initramfs
from matrix.debian import Kernel, MatrixError
from matrix.tools import CPU, Tools

_INIT = Path(__file__).with_name("init.sh")
_APPEND = "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check tsc=unstable"
_POLL_SECONDS = 0.2
_DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # a matrix that is killed leaves no guest behind


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot, and the command to run in it, in `directory`. `folder` takes its files on this side.

    `root` is shared read-only, under a tmpfs; `shares` are further folders, by their path in the guest.
    """

    kernel: Kernel
    command: tuple[str, ...]
    directory: Path
    folder: Path
    root: Path = Path("/")
    shares: Mapping[Path, Path] = field(default_factory=dict)
    share_kind: str = "virtiofs"
    memory_mib: int = 2048
    cpus: int = 2


@dataclass
class Machine:
    """A running guest. Iterate over `records`; it ends with QEMU. Then `console` and `output` are complete."""

    guest: Guest
    tools: Tools

    @property
    def console(self) -> str:
        return self._text("console")

    @property
    def output(self) -> str:
        return self._text("output")

    @property
    def said(self) -> str:
        """What QEMU itself said."""
        return self._text("qemu.log")

    def records(self, timeout_seconds: float, boot_seconds: float) -> Iterator[dict[str, Any]]:
        """Every JSON line of the guest as it comes. Raises TimeoutError; the guest has ended either way."""
        with contextlib.ExitStack() as stack:
            qemu = self._start(stack)
            began, offset, booted = time.monotonic(), 0, False
            while True:
                running = qemu.poll() is None
                lines = self._text("records")
                for line in complete_lines(lines[offset:]):
                    offset += len(line)
                    booted = True
                    with contextlib.suppress(json.JSONDecodeError):  # a panic may cut a line
                        yield json.loads(line)
                if not running:
                    return
                seconds = time.monotonic() - began
                if seconds > timeout_seconds:
                    raise TimeoutError(f"not done within {timeout_seconds:.0f} s")
                if seconds > boot_seconds and not booted:
                    raise TimeoutError(f"did not boot within {boot_seconds:.0f} s")
                time.sleep(_POLL_SECONDS)

    def _start(self, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        guest, folder = self.guest, self.guest.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("console", "output", "records"):
            (folder / name).write_bytes(b"")
        shares = {"root": guest.root, **{f"share{n}": host for n, host in enumerate(guest.shares.values())}}
        if guest.kernel.modules is not None:
            shares["modules"] = guest.kernel.modules
        devices = [word for tag, host in shares.items() for word in self._share(stack, tag, host)]
        (folder / "initrd").write_bytes(self._initrd())
        command = [*_DIES_WITH_US, *qemu_command(guest, self.tools), *devices]
        log = stack.enter_context((folder / "qemu.log").open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, process)
        return process

    def _share(self, stack: contextlib.ExitStack, tag: str, host: Path) -> list[str]:
        folder = self.guest.folder
        if self.guest.share_kind == "9p":
            options = f"local,path={host},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"
            return ["-virtfs", options]
        socket = folder / f"{tag}.sock"
        socket.unlink(missing_ok=True)
        command = [
            *_DIES_WITH_US,
            *self.tools.virtiofsd,
            "--socket-path",
            str(socket),
            "--shared-dir",
            str(host),
            "--readonly",
        ]
        log = stack.enter_context((folder / f"{tag}.log").open("wb"))
        process = subprocess.Popen(
            [*command, "--sandbox", "chroot", "--cache", "always", "--no-announce-submounts"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(_end, process)
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MatrixError(f"virtiofsd did not start:\n{self._text(f'{tag}.log')}")
            time.sleep(0.02)
        return [
            "-chardev", f"socket,id={tag},path={socket}", "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}",
        ]  # fmt: skip

    def _initrd(self) -> bytes:
        guest = self.guest
        shares = [f"share{n} {path}" for n, path in enumerate(guest.shares)]
        if guest.kernel.modules is not None:
            shares.append(f"modules /lib/modules/{guest.kernel.release}")
        files = {
            "init": _INIT.read_text(encoding="utf-8"),
            "shares": "".join(f"{line}\n" for line in shares),
            "command": f"cd {shlex.quote(str(guest.directory))} && exec {shlex.join(guest.command)}\n",
        }
        return initramfs.build(guest.kernel.modules, Path("/bin/busybox"), files)

    def _text(self, name: str) -> str:
        path = self.guest.folder / name
        return path.read_text(encoding="utf-8", errors="replace").replace("\r", "") if path.exists() else ""


def qemu_command(guest: Guest, tools: Tools) -> list[str]:
    """Without the shares.

    One thread emulates all CPUs: with more, a guest that patches its own code (a static key flips: the first cgroup
    program does that) sooner or later runs what was there before, and hangs or panics.
    """
    accelerator = "kvm" if tools.kvm else "tcg,thread=single,tb-size=512"
    memory = f"memory-backend-memfd,id=memory,size={guest.memory_mib}M,share=on"
    return [
        *tools.qemu, "-machine", "pc,memory-backend=memory", "-accel", accelerator,
        "-cpu", CPU,
        "-smp", str(guest.cpus), "-m", str(guest.memory_mib), "-object", memory,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(guest.kernel.image), "-initrd", str(guest.folder / "initrd"),
        "-append", f"{_APPEND} matrix.share={guest.share_kind}",
        *_serial(guest.folder),
    ]  # fmt: skip


def _serial(folder: Path) -> Sequence[str]:
    return [word for name in ("console", "output", "records") for word in ("-serial", f"file:{folder / name}")]


def complete_lines(text: str) -> list[str]:
    """Lines of a text that is still being written, without the one that has no end yet."""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def project_folder() -> Path:
    """The checkout that this module is part of."""
    return Path(__file__).resolve().parents[1]


def can_run() -> str | None:
    """Why no guest can be booted here; None where one can."""
    if os.geteuid() != 0:
        return "root is needed: the guest sees this machine's files, and its processes are root"
    if os.uname().machine != "x86_64":
        return f"only x86_64 so far, not {os.uname().machine}"
    return None
