"""An engine behind SSH: its socket, on this host."""

import errno
import select
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from urllib.parse import urlsplit

#: Seconds until the other host must have let us in.
_PATIENCE = 20

#: A connection that is silent for so many seconds is asked whether it lives, and ended after three such questions.
_ALIVE = 10

#: What the other host's shell says when the connection stands.
_GREETING = b"cellwork\n"
_GREETING_BYTES = 200

_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ExitOnForwardFailure": "yes",
    "LogLevel": "ERROR",
    "ServerAliveInterval": str(_ALIVE),
    "ServerAliveCountMax": "3",
    "StreamLocalBindUnlink": "yes",
}


class Tunnel:
    """One SSH connection, which all requests share.

    The system's own ``ssh`` makes it: what ``~/.ssh/config`` says, agents, jump hosts and known hosts hold here, too.
    """

    def __init__(self, address: str) -> None:
        """`address`: ``ssh://[USER@]HOST[:PORT][/PATH/OF/ENGINE.sock]``; default path: ``/var/run/docker.sock``."""
        self._folder = Path(tempfile.mkdtemp(prefix="cellwork-ssh-"))
        self._socket = self._folder / "engine.sock"
        #: Of the engine's socket, on the other host.
        self.path = urlsplit(address).path.rstrip("/") or "/var/run/docker.sock"
        self._argv = _argv(address, f"{self._socket}:{self.path}")
        self._process: subprocess.Popen[bytes] | None = None
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where the engine is on this host."""
        return f"unix://{self._socket}"

    def open(self) -> None:
        """Connect, where it is not connected, or not any more.

        Raises:
            OSError: with what ssh said.
        """
        if self._process is not None and self._process.poll() is None:
            return
        log = self._folder / "log"
        with log.open("wb") as errors:
            try:
                self._process = process = subprocess.Popen(
                    self._argv,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    # Ctrl-C is for the worker, which still needs its engine then.
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ConnectionError(errno.ENOENT, "the program ssh is not installed here") from None
        weakref.finalize(self, _end, process)
        assert process.stdout is not None
        # The forwarding is there before the command runs.
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        there = process.stdout.read(_GREETING_BYTES) if ready else b""
        if there == _GREETING:
            return
        _end(process)
        said = log.read_text(errors="replace").strip() or there.decode("utf-8", "backslashreplace").strip()
        said = said or f"ssh did not connect within {_PATIENCE} s"
        raise ConnectionError(errno.ECONNREFUSED, said)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()


def _argv(address: str, forwarded: str) -> list[str]:
    parts = urlsplit(address)
    argv = ["ssh", *(f"-o{name}={value}" for name, value in _OPTIONS.items())]
    argv += [f"-L{forwarded}"]
    argv += [f"-p{parts.port}"] if parts.port else []
    argv += [f"-l{parts.username}"] if parts.username else []
    # Its input ends when this process does, however it does; -N would stay.
    return [*argv, "--", parts.hostname or "", "echo cellwork && exec cat"]
