"""What a sandbox uses, where no runner tells it: a command's, or one that is killed or crashes."""

import msgspec

from cellwork.errors import InvalidSpec
from cellwork_worker.executors import shell
from cellwork_worker.executors.base import Emit, Exit
from cellwork_worker.launch import Launch

from .containers import Container
from .looks import Looks
from .report import Report


class Measuring:
    """Of one launch."""

    def __init__(self, looks: Looks, launch: Launch, container: Container, emit: Emit) -> None:
        """`emit`: gets its output."""
        command = launch.payload is None
        self._launch = launch
        self._looks = looks
        self._look = looks.begin(container.id, alone=command and container.shell is None)
        self._report = Report(launch.id, emit) if command else None
        #: What is to get its output instead.
        self.emit = emit if self._report is None else self._report.emit

    def exit(self, ended: Exit) -> Exit:
        """How it ended, with what it used.

        Raises:
            InvalidSpec: its program could not be started.
        """
        told = "" if self._report is None else self._report.end()
        if shell.never_ran(told):
            raise InvalidSpec(shell.missing(self._launch, f"sandbox {self._launch.id}"))
        used = {**self._look.found, **shell.figures(told)}
        return msgspec.structs.replace(ended, used=used, killed=ended.killed and not shell.ended(told))

    def close(self) -> None:
        """No more."""
        self._looks.end(self._look)
