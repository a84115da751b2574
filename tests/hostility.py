"""How many hostile tasks were tried, and how many were contained: a line at the end of the run."""

from collections.abc import Generator

import pytest

#: A test's properties, because those come with its report from whichever process it ran in.
PROPERTY, TRIED, CONTAINED = "hostile", "tried", "contained"
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    last = [report for report in reports if getattr(report, "when", None) == "teardown"]
    told = [value for report in last for name, value in report.user_properties if name == PROPERTY]
    if told:
        terminalreporter.write_line(f"hostile tasks: {told.count(TRIED)} tried, {told.count(CONTAINED)} contained")
