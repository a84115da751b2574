"""A real browser: Debian's chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without a window. A missing one is a failure, not a skip."""
    found = shutil.which("chromium")
    assert found, "no chromium; on Debian: scripts/programs.sh"
    with sync_playwright() as playwright:
        # Its sandbox needs user namespaces, which a container that runs tests may not have.
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()
