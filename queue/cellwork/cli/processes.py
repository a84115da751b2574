"""The processes that ``up`` and ``demo`` start, and their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

#: Seconds that a process may take to leave before it is asked more firmly.
_LEAVE = 20.0


@dataclass
class Processes:
    """Started together, stopped together, in the reverse order."""

    app: str
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    #: Their output goes here; None: to this process's own.
    log: Path | None = None
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> None:
        """Start ``celery -A app …`` as `name`."""
        out = self.log.open("ab") if self.log else None
        try:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", self.app, *arguments],
                env={**os.environ, **self.env},
                cwd=self.cwd,
                stdout=out,
                stderr=subprocess.STDOUT if out else None,
                # Ctrl-C in the terminal must reach only us: we stop them in order.
                start_new_session=True,
            )
        finally:
            if out:
                out.close()

    def ended(self) -> str | None:
        """The name of one that ended by itself, if one did."""
        return next((name for name, process in self.running.items() if process.poll() is not None), None)

    def wait(self) -> None:
        """Until one ends by itself.

        Raises:
            click.ClickException: one did.
            KeyboardInterrupt: the user pressed Ctrl-C.
        """
        while (name := self.ended()) is None:
            time.sleep(0.5)
        raise click.ClickException(f"{name} ended with status {self.running[name].returncode}; what it said is above")

    def stop(self) -> None:
        """End them: a warm shutdown, and where somebody presses Ctrl-C again or it takes too long, a cold one."""
        for name, process in reversed(self.running.items()):
            process.terminate()
            try:
                process.wait(_LEAVE)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                click.echo(f"{name} still has work; ending it now, its tasks will be delivered again", err=True)
                process.send_signal(signal.SIGQUIT)
                self._kill(process)

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
