"""`dagwall doctor`: would dagwall work on this node, and what would it not hold? Before anything is installed."""

from __future__ import annotations

from agent.cli.doctor.command import doctor

__all__ = ["doctor"]
