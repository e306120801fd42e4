"""Agents that write an audit log and are killed: `python -m tests.audit_writer PATH TIMES`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from agent.outputs.audit.journal import Journal
from agent.outputs.audit.keys import signer
from agent.outputs.audit.log import AuditLog
from tests.unit.seen import STATE, denial


def write(path: Path) -> None:
    journal = Journal(path, signer(None, path.parent / "key.pem"), max_bytes=200_000, keep=10_000)
    log = AuditLog(journal, "n1", lambda: None)
    log.start()
    log.report(STATE)
    seen = denial()
    while True:
        log.denials([seen] * random.randrange(1, 200))
        time.sleep(0.0005)


def main() -> None:
    path, times = Path(sys.argv[1]), int(sys.argv[2])
    signer(None, path.parent / "key.pem")
    for _ in range(times):
        child = os.fork()
        if not child:
            write(path)
        time.sleep(random.uniform(0.02, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
