"""How many hostile tasks were tried, and how many were contained: a line at the end of the run."""

from collections.abc import Generator
from dataclasses import dataclass

import pytest


@dataclass
class Tally:
    tried: int = 0
    contained: int = 0


TALLY = pytest.StashKey[Tally]()
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[TALLY]
    if tally.tried:
        terminalreporter.write_line(f"hostile tasks: {tally.tried} tried, {tally.contained} contained")
