"""What a command uses: it has no runner to tell that, but a shell around it, and the engine's figures."""

import msgspec

from cellwork.errors import InvalidSpec
from cellwork_worker.executors import shell
from cellwork_worker.executors.base import Emit, Exit
from cellwork_worker.launch import Launch

from .containers import Container
from .engine import Engine
from .report import Report
from .sampling import Sampling


class Measuring:
    """Of one launch."""

    def __init__(self, engine: Engine, launch: Launch, container: Container, emit: Emit) -> None:
        """`emit`: gets its output."""
        self._launch = launch
        self._command = launch.payload is None
        self._report = Report(launch.id, emit)
        self._sampling = Sampling(engine, container.id, alone=container.shell is None) if self._command else None
        #: What is to get its output instead.
        self.emit = self._report.emit if self._command else emit

    def exit(self, ended: Exit) -> Exit:
        """How it ended, with what it used.

        Raises:
            InvalidSpec: its program could not be started.
        """
        if self._sampling is None:
            return ended
        told = self._report.end()
        if shell.never_ran(told):
            raise InvalidSpec(shell.missing(self._launch, f"sandbox {self._launch.id}"))
        used = {**self._sampling.end(), **shell.figures(told)}
        return msgspec.structs.replace(ended, used=used, killed=ended.killed and not shell.ended(told))

    def close(self) -> None:
        """No more."""
        if self._sampling is not None:
            self._sampling.end()
