"""Inside a guest: pytest, whose outcomes go out one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_LINES = 40
"""Of a failure's text."""


class Reporter:
    """Tells each test's outcome. An error in a fixture counts as the test's failure."""

    def __init__(self, records: Callable[..., None]) -> None:
        self._records = records

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._records("collected", tests=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._records("test", name=report.nodeid, outcome="failed", text=_tail(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._records("start", name=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            text = _tail(report.longreprtext)
            self._records("test", name=report.nodeid, outcome="failed", text=text, seconds=report.duration)
        elif report.when == "call" or report.skipped:
            self._records("test", name=report.nodeid, outcome=report.outcome, seconds=report.duration)


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_LINES:])


def run_tests(records: Callable[..., None], arguments: list[str]) -> None:
    """pytest with these arguments, in this process."""
    code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[Reporter(records)])
    records("pytest", code=int(code))
