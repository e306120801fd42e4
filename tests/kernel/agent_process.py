"""An agent as a process of its own, to be killed: `python -m tests.kernel.agent_process` with a pickle in hex."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from agent.app.agent import build, stop_on_signals
from agent.config import Config
from agent.kernel import syscall
from agent.model.cluster import Settings

START_SECONDS = 300.0  # clang in an emulated machine that does other things


@dataclass
class AgentProcess:
    """One agent, enforcing when the constructor returns."""

    config: Config
    ready: Path
    release: Path = Path(__file__).parents[2]  # the tree that it runs from

    def __post_init__(self) -> None:
        self._process = self.spawn(self.config, self.ready, stderr=subprocess.PIPE, cwd=self.release)
        deadline = time.monotonic() + START_SECONDS
        while not self.ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the agent did not start: {self.errors}")
            time.sleep(0.02)

    @staticmethod
    def spawn(config: Config, ready: Path, **how: Any) -> subprocess.Popen[str]:
        """Begin one; `ready` is there when it enforces."""
        ready.unlink(missing_ok=True)
        argument = pickle.dumps((config, str(ready))).hex()
        command = [sys.executable, "-m", "tests.kernel.agent_process", argument]
        how = {"stderr": subprocess.DEVNULL} | how
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True, **how)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: nothing of the agent gets to say goodbye."""
        self._process.send_signal(signal.SIGKILL)
        _, self.errors = self._process.communicate()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        _, self.errors = self._process.communicate(timeout=60)
        return self._process.returncode


def die_at(step: str) -> None:
    """`COMMAND:N`: SIGKILL in place of the Nth call of this bpf(2) command."""
    name, _, number = step.partition(":")
    calls, real = Counter[str](), syscall.bpf

    def counted(command: syscall.Command, attr: bytes | bytearray) -> tuple[int, bytes]:
        calls[command.name] += 1
        if command.name == name and calls[name] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(command, attr)

    syscall.bpf = counted


def main() -> None:
    if step := os.environ.get("DIE_AT"):
        die_at(step)
    config, ready = pickle.loads(bytes.fromhex(sys.argv[1]))
    settings = Settings(pod_ranges=(ip_network("10.77.0.0/16"),), baseline=())
    agent = build(config, settings)
    stop_on_signals(agent)
    fresh = Path(f"{ready}.new")
    fresh.write_text("adopted" if agent.datapath.adopted else "fresh")
    fresh.rename(ready)
    agent.run()


if __name__ == "__main__":
    main()
