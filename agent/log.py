"""Log lines: one JSON object a line on standard error, a constant event name plus fields."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

from agent.text import json_text

LOGGER = "dagwall"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json_text(line)


def configure(*, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all of dagwall's log lines to `stream` (standard error by default)."""
    out = logging.StreamHandler(stream or sys.stderr)
    out.setFormatter(_JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [out]
    logger.setLevel(level.upper())
    logger.propagate = False


def event(name: str, *, level: int = logging.INFO, exc: BaseException | None = None, **fields: object) -> None:
    """Log one event; `name` is constant and searchable, everything that varies is a field."""
    logging.getLogger(LOGGER).log(level, name, extra={"fields": fields}, exc_info=exc)
