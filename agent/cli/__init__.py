"""The command line: noun commands read, verb commands change."""

from __future__ import annotations

from agent.cli.main import main

__all__ = ["main"]
