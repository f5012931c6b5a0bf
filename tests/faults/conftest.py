"""The table that the campaign prints: a row per test, with the sums of what it counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias, cast

import pytest

from tests.faults.campaign import LONG

Tally: TypeAlias = Callable[[str, int], None]

_TALLY = "tally"


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Adds a number to the test's row of the table, under a name: ``tally("answers lost", 0)``."""

    def count(name: str, number: int) -> None:
        record_property(_TALLY, (name, number))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not LONG:
        return
    rows: dict[str, list[pytest.TestReport]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call" and "faults/" in report.nodeid:
                rows.setdefault(report.nodeid.partition("[")[0], []).append(report)
    terminalreporter.section("fault campaign")
    terminalreporter.line("| fault | runs | failed | counted | s |")
    terminalreporter.line("|---|---|---|---|---|")
    for node, reports in rows.items():
        counted: Counter[str] = Counter()
        for report in reports:
            for kind, value in report.user_properties:
                if kind == _TALLY:
                    name, number = cast(tuple[str, int], value)
                    counted[name] += number
        title = node.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        failed = sum(report.failed for report in reports)
        sums = ", ".join(f"{number:,} {name}" for name, number in counted.items())
        seconds = sum(report.duration for report in reports)
        terminalreporter.line(f"| {title} | {len(reports):,} | {failed} | {sums} | {seconds:.0f} |")
