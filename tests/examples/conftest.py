"""An example as a new user has it: a copy of its folder, in which its README's commands are run as they stand.

Images that they build stay on the engine, so that the next run finds them.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from browser import chromium
from playwright.sync_api import Browser, Page
from ports import free_port
from waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Seconds for one command, the building of images included.
TIMEOUT = 110


class Example:
    """One example's folder, and the processes that its commands start."""

    def __init__(self, name: str, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder / name
        shutil.copytree(EXAMPLES / name, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        blocks = re.findall(r"^```console\n(.*?)^```$", (self.folder / "README.md").read_text(), re.M | re.S)
        lines = "".join(blocks).splitlines()
        #: Those of the README that have not been run, in their order.
        self.commands = [line.partition("  #")[0].strip() for line in lines]
        # `cellwork up` finds no broker there, and so starts its own.
        broker = f"redis://127.0.0.1:{free_port()}"
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CELERY_BROKER_URL": f"{broker}/0",
            "CELERY_RESULT_BACKEND": f"{broker}/1",
            "CELLWORK_BASE_IMAGE": "cellwork/python:base",
            **env,
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: str, sign: str, *more: str) -> Callable[[], str]:
        """Start a command of the README that goes on; `more` is put behind it. Wait until it says `sign`.

        Returns:
            a function that gives what it has said so far.
        """
        self.commands.remove(command)
        log = self.folder.parent / f"{len(self._started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*shlex.split(command), *more],
                cwd=self.folder,
                env=self.env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)

        def said() -> bool:
            assert process.poll() in (None, 0), f"{command} ended:\n{log.read_text()}"
            return sign in log.read_text()

        wait_until(said, timeout=60, what=f"{command} to say {sign!r}")
        return log.read_text

    def up(self, app: str) -> Callable[[], str]:
        """``cellwork up`` of the README, without Flower, whose port somebody else may have."""
        return self.start(f"cellwork up -A {app}", " ready.", "--no-flower")

    def run(self, command: str, status: int = 0) -> str:
        """Run a command of the README to its end; return what it printed."""
        self.commands.remove(command)
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == status, f"{command}: {done.stdout}"
        return done.stdout

    def stop(self) -> None:
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                # With all that it has started: it leads a session of its own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                pytest.fail(f"{process.args} did not end within 40 s")


@pytest.fixture
def example(engine, installation, tmp_path) -> Callable[..., AbstractContextManager[Example]]:
    """Enter an example; at the end its processes are stopped, and every command of its README must have been run."""

    @contextmanager
    def enter(name: str, **env: str) -> Iterator[Example]:
        here = Example(name, tmp_path, {"CELLWORK_INSTALLATION": installation, **env})
        try:
            yield here
        except BaseException:
            for log in sorted(tmp_path.glob("*.log")):
                print(f"---- {log.name}\n{log.read_text()[-5000:]}")
            raise
        finally:
            here.stop()
        assert here.commands == [], "commands of the README that the test has not run"

    return enter


@pytest.fixture(autouse=True)
def leaves_nothing(nothing_left) -> Iterator[None]:
    yield
    nothing_left()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page that must not complain, and on which nothing injected must run."""
    context = browser.new_context(viewport={"width": 900, "height": 640})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
    yield opened
    assert opened.evaluate("window.hacked") is None, f"something injected ran on {opened.url}"
    context.close()
    assert complaints == []
