"""Sandboxes as local processes: fresh, but isolated from nothing. For development."""

import contextlib
import errno
import fcntl
import logging
import os
import selectors
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Set
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSYS, SIGTRAP, Signals
from tempfile import TemporaryDirectory
from typing import IO

import msgspec

from cellwork.errors import CellworkError, EngineUnavailable, InvalidSpec, NotAdoptable
from cellwork_worker.executors.base import STARTED, STDERR, STDOUT, Abandoned, Emit, Exit, Health, Sandbox
from cellwork_worker.launch import Launch

logger = logging.getLogger("cellwork.worker")

_CHUNK_BYTES = 64 * 1024

#: Seconds that a task which has ended waits for its processes and files to be gone; longer than that is background.
_REMOVE_PATIENCE = 0.05

#: What a program does to itself. Any other signal came from somebody else.
_CRASHES = frozenset({SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP})

#: The host is short of something, and may have it later. Any other refusal is about the program.
_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})


class _Process(msgspec.Struct, frozen=True, eq=False):
    popen: subprocess.Popen[bytes]
    #: Its home, its TMPDIR and where it starts.
    folder: TemporaryDirectory[str]

    def signal(self, number: int) -> None:
        # Gone is as good as signalled.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


class ProcessExecutor:
    """One fresh process a task, in a session and an empty folder of its own, as the worker's user.

    Of the spec, `entrypoint` counts; image, user, limits, network, volumes, workdir mean nothing here. A body can read
    what the worker can read, and can signal the worker: nothing here prevents it. The whole process group is killed at
    the end; a daemon that left it (``setsid``) survives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Process] = {}
        self._removing: list[threading.Thread] = []
        self._abandoned: set[str] = set()
        self._place = f"process-{uuid.uuid4().hex}"

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port.

        Raises:
            InvalidSpec: there is no such program on this host.
            EngineUnavailable: the host is short of processes, memory, files or disk.
            NotAdoptable: a process with this id is running. It cannot be adopted: its output goes to its first `run`.
        """
        asked = time.monotonic()
        launch.confirm()
        process = self._start(launch)
        start_seconds = time.monotonic() - asked
        try:
            complete = emit(STARTED, b"") or _converse(process.popen, launch.payload, emit)
        finally:
            self._end(launch, process)
        if launch.id in self._abandoned:
            self._abandoned.discard(launch.id)
            raise Abandoned(f"task {launch.task}: process {launch.id} was ended, because nobody can adopt it")
        return Exit(start_seconds=start_seconds) if complete else _exit(process.popen.wait(), start_seconds)

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port. The signal goes to the whole process group."""
        with self._lock:
            if (process := self._running.get(launch_id)) is not None:
                process.signal(signal)

    def abandon(self, launch_id: str) -> None:
        """See the port. Nobody can adopt a process: its output goes to this worker."""
        with self._lock:
            if (process := self._running.get(launch_id)) is not None:
                self._abandoned.add(launch_id)
                process.signal(SIGKILL)

    def discard(self, launch_id: str) -> None:
        """Do nothing: `run` has removed it."""

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """Return nothing: its output is not kept."""
        return None

    def sandboxes(self) -> list[Sandbox]:
        """Return nothing: a process of a worker that died is not known to anyone."""
        return []

    def place(self) -> str:
        """See the port: each worker's own."""
        return self._place

    def sweep(self, live: Set[str]) -> list[str]:
        """See the port. What a worker that died left running is not known to the next one."""
        with self._lock:
            ended = [launch_id for launch_id in self._running if launch_id not in live]
            for launch_id in ended:
                self._running[launch_id].signal(SIGKILL)
            removing = list(self._removing)
        for thread in removing:
            thread.join()
        return ended

    def facts(self) -> dict[str, object]:
        """See the port."""
        return {}

    def check(self) -> Health:
        """See the port."""
        detail = "local processes, isolates nothing: for development only"
        return Health(executor="process", ok=True, detail=detail, facts={"python": sys.executable})

    def _start(self, launch: Launch) -> _Process:
        # Under the lock, so that a stop that comes meanwhile finds the process. Forks wait for one another anyway.
        with self._lock:
            if launch.id in self._running:
                raise NotAdoptable(
                    f"task {launch.task}: sandbox {launch.id} is running in this worker already, and a process cannot "
                    f"be adopted; run tasks that outlive the broker's visibility timeout with executor='docker'"
                )
            self._running[launch.id] = process = _spawn(launch)
            return process

    def _end(self, launch: Launch, process: _Process) -> None:
        """Kill the whole group, in the background remove what is left of it."""
        with self._lock:
            # Not yet waited for, so its number cannot be anyone else's; from here on nobody else signals it.
            del self._running[launch.id]
        process.signal(SIGKILL)
        for pipe in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            if pipe is not None:
                pipe.close()
        thread = threading.Thread(target=_remove, args=(launch, process), name=f"{launch.id}-remove")
        thread.start()
        with self._lock:
            self._removing = [*(other for other in self._removing if other.is_alive()), thread]
        thread.join(_REMOVE_PATIENCE)


def _spawn(launch: Launch) -> _Process:
    argv = [*launch.argv] if launch.payload is not None else [*(launch.spec.entrypoint or ()), *launch.argv]
    if not argv:
        raise InvalidSpec(f"task {launch.task}: its command is empty, and the process executor has no image to ask")
    if launch.payload is not None and argv[0] == "python3":
        # The runner's interpreter: here that is the worker's, with the worker's packages.
        argv[0] = sys.executable
    folder = None
    try:
        folder = TemporaryDirectory(prefix="cellwork-")
        popen = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE if launch.payload else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder.name,
            env=_environment(launch, folder.name),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        if folder is not None:
            folder.cleanup()
        raise _refused(launch, argv[0], error) from error
    return _Process(popen, folder)


def _environment(launch: Launch, folder: str) -> dict[str, str]:
    """Of the worker's, what a program cannot do without: the rest holds the broker's password, or might."""
    host = {name: text for name, text in os.environ.items() if name == "LANG" or name.startswith("LC_")}
    host["PATH"] = os.environ.get("PATH", os.defpath)
    # The launch's HOME is made for a container. What the task itself says wins.
    return {**host, **launch.env, "HOME": folder, "TMPDIR": folder, **(launch.spec.env or {})}


def _refused(launch: Launch, program: str, error: OSError | ValueError) -> CellworkError:
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        return EngineUnavailable(f"task {launch.task}: this host cannot start another process now: {error}")
    path = launch.env.get("PATH") or os.environ.get("PATH", os.defpath)
    return InvalidSpec(
        f"task {launch.task}: cannot start the program {program!r} on this host (PATH={path}): {error}. The process "
        f"executor uses the worker's own programs: install it here, or give the task an image and executor='docker'"
    )


def _converse(popen: subprocess.Popen[bytes], payload: bytes | None, emit: Emit) -> bool:
    """Write `payload`, give the output to `emit`. True: it has the outcome. False: the process has ended."""
    assert popen.stdout is not None
    assert popen.stderr is not None
    outputs = {popen.stdout.fileno(): STDOUT, popen.stderr.fileno(): STDERR}
    left = memoryview(payload or b"")
    # A pipe's end would not do: a program may close its output and run on, a daemon may hold it after the program.
    ended = os.pidfd_open(popen.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in (*outputs, ended):
                selector.register(fd, selectors.EVENT_READ)
            if popen.stdin is not None:
                os.set_blocking(popen.stdin.fileno(), False)
                selector.register(popen.stdin, selectors.EVENT_WRITE)
            while True:
                ready = [key for key, _ in selector.select()]
                if any(key.fd == ended for key in ready):
                    return any(_drain(fd, stream, emit) for fd, stream in outputs.items())
                for key in ready:
                    if key.fd not in outputs:
                        assert popen.stdin is not None
                        left = _feed(selector, popen.stdin, left)
                    elif not (chunk := os.read(key.fd, _CHUNK_BYTES)):
                        selector.unregister(key.fd)
                    elif emit(outputs[key.fd], chunk):
                        return True
    finally:
        os.close(ended)


def _feed(selector: selectors.BaseSelector, pipe: IO[bytes], left: memoryview) -> memoryview:
    """Write what the pipe takes; close it after the last byte. Returns what is left."""
    try:
        left = left[os.write(pipe.fileno(), left[:_CHUNK_BYTES]) :]
    except BrokenPipeError:
        left = left[:0]  # it does not want the rest; how it ends says whether that was right
    if not left:
        selector.unregister(pipe)
        pipe.close()
    return left


def _drain(fd: int, stream: int, emit: Emit) -> bool:
    """Give `emit` what an ended process has left in a pipe, and no more: others may still be writing there."""
    (left,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    while left > 0 and (chunk := os.read(fd, min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        if emit(stream, chunk):
            return True
    return False


def _exit(code: int, start_seconds: float) -> Exit:
    if code >= 0:
        return Exit(code=code, start_seconds=start_seconds)
    number = -code
    name = Signals(number).name if number in set(Signals) else f"signal {number}"
    return Exit(code=128 + number, killed=number not in _CRASHES, detail=name, start_seconds=start_seconds)


def _remove(launch: Launch, process: _Process) -> None:
    process.popen.wait()
    try:
        process.folder.cleanup()
    except OSError as error:
        logger.warning(
            "%s: its folder %s cannot be removed, do that by hand: %s", launch.id, process.folder.name, error
        )
