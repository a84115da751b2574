"""Somebody who types what a page shows, in a folder of his own, with a terminal.

Only images are others: those that scripts/base-images.sh makes, because registries are not to be had everywhere.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

import pytest
from pages import consoles
from pages.blocks import blocks
from pages.claims import RUNS_THESE, typed_elsewhere
from waiting import wait_until

IMAGES = {
    "python:3.12-slim": "cellwork/python:base",
    "busybox:stable": "cellwork/busybox:base",
    "alpine:3": "cellwork/busybox:base",
}

#: What a Celery worker ends with after Ctrl-C (celery.apps.worker, 5.7).
CELERYS_OWN = 1

#: What Flower 2.2 ends with; the second where Ctrl-C comes before its loop has begun.
FLOWERS_OWN = (0, 1)

#: How often one presses Ctrl-C: a Flower that got it while it was starting a thread waits for that thread for ever
#: (2.2 on Python 3.11, one of 40 in its first second), and ends by the next.
FLOWERS_PRESSES = 2

#: Seconds for one line. Each starts a program; on a machine with much other work that adds up.
TIMEOUT = 280

#: What goes on until Ctrl-C: how it begins, what it says once it is there, how it ends, how often Ctrl-C is pressed,
#: and what is put behind it.
_GOES_ON = (
    (re.compile(r"(?:\w+=\S+ )*celery -A \S+ worker"), " ready.", CELERYS_OWN, 1, "-l INFO -n {name}@%h"),
    (re.compile(r"cellwork worker"), " ready.", CELERYS_OWN, 1, "-- -l INFO -n {name}@%h"),
    (re.compile(r"celery -A \S+ flower"), "Visit me at", FLOWERS_OWN, FLOWERS_PRESSES, ""),
)

#: Variables that tell where other tests' services are.
_OF_THE_TESTS = ("CELERY_", "CELLWORK_", "SHOP_", "KUBECONFIG")

#: What a later line of the same block is typed after.
_LASTS = re.compile(r"export |cd |\. |\w+=\S+$")


def here(text: str) -> str:
    """An example with images that are there."""
    for image, ours in IMAGES.items():
        text = text.replace(image, ours)
    return text


class Reader:
    """Types in `where`: a folder of his own, unless said otherwise. `log` is of the first program that went on."""

    def __init__(self, folder: Path, broker: str, name: str) -> None:
        self.folder = self.where = folder
        self.log = folder / "worker.log"
        self.name = name
        self.installation = f"tests-pages-{name}-{os.getpid()}"
        self._count = count()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_TESTS)},
            # Workers of other tests take from the first two.
            "CELERY_BROKER_URL": f"{broker}/6",
            "CELERY_RESULT_BACKEND": f"{broker}/7",
            "CELLWORK_INSTALLATION": self.installation,
            "PATH": consoles.path(),
            "COLUMNS": "200",
        }

    def writes(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(here(text))

    def runs(self, line: str) -> "subprocess.CompletedProcess[str]":
        """A line to its end."""
        with self._started(line, subprocess.PIPE) as process:
            try:
                printed, _ = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                # With all that it has started: it leads a session of its own.
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"$ {line}\nhas not ended after {TIMEOUT} s: {process.communicate()[0]}")
        return subprocess.CompletedProcess(line, process.returncode, printed)

    def _started(self, line: str, output: "int | IO[str]") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", "-c", here(line)],
            cwd=self.where,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def types(self, line: str) -> str:
        """What a line prints, however it ends."""
        return self.runs(line).stdout

    def succeeds(self, line: str) -> str:
        """What a line prints that ends well."""
        ran = self.runs(line)
        assert ran.returncode == 0, f"$ {line}\n{ran.stdout}"
        return ran.stdout

    @contextmanager
    def leaves_running(
        self, line: str, status: int | tuple[int, ...] = 0, sign: str = " ready.", presses: int = 1
    ) -> Iterator[None]:
        """Something that goes on, until Ctrl-C, after which it ends with this status, or one of these."""
        log = self.log if not self.log.exists() else self.folder / f"{next(self._count)}.log"
        *before, last = line.splitlines()
        with log.open("w") as out:
            process = self._started("\n".join([*before, f"exec env {last}"]), out)
        try:
            wait_until(
                lambda: sign in log.read_text() or process.poll() is not None, timeout=60, what=f"{line} to be there"
            )
            assert process.poll() is None, f"$ {line}\n{log.read_text()}"
            yield
        finally:
            ended = self._ctrl_c(process, presses)
            assert ended in (status if isinstance(status, tuple) else (status,)), (
                f"$ {line}\nended with {ended}\n{log.read_text()}"
            )

    def _ctrl_c(self, process: "subprocess.Popen[str]", presses: int) -> int:
        """A terminal sends it to all that were started in it; pressed again where they do not end by it."""
        for _ in range(presses - 1):
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                return process.wait(15)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(60)

    def types_page(self, page: str, say: Callable[[str], str] = str) -> dict[str, str]:
        """All lines of a page's consoles, in their order, except those that a test of their own types.

        Args:
            page: its path from the repository's folder.
            say: a line as it is typed here, with the ids, addresses and so on that are there.

        Returns:
            what each line that ended has printed; each ends well, and what goes on comes up.
        """
        others = {*typed_elsewhere(page), *(line for of, line in RUNS_THESE if of == page)}
        printed: dict[str, str] = {}
        for block in blocks(page, "console"):
            mine = [line for line in map(consoles.bare, consoles.lines(block)) if line not in others]
            with ExitStack() as going:
                before: list[str] = []
                for line in mine:
                    typed = say(line)
                    if _LASTS.match(typed):
                        before.append(typed)
                    elif any(pattern.match(typed) for pattern, *_ in _GOES_ON):
                        going.enter_context(self._comes_up(before, typed))
                    else:
                        printed[line] = self.succeeds("\n".join([*before, typed]))
        return printed

    def _comes_up(self, before: list[str], line: str) -> AbstractContextManager[None]:
        """A worker has a name of its own: several may be started here."""
        sign, status, presses, more = next(rest for kind, *rest in _GOES_ON if kind.match(line))
        if "-n " in line:
            more = more.partition(" -n ")[0]
        more = more.format(name=f"{self.name}-{next(self._count)}")
        return self.leaves_running("\n".join([*before, f"{line} {more}"]), status, sign, presses)
