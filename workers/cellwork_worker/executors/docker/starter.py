"""A sandbox for a task: one that waited warm, or one that an earlier delivery started, or a new one."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from signal import SIGKILL, Signals

from docker.errors import APIError

from cellwork.errors import EngineUnavailable, SandboxLost
from cellwork_worker.launch import Launch

from .containers import Container, Containers
from .demand import WarmLimits
from .engine import answer, name_taken
from .followed import Followed
from .stream import Attached, Demux, chunks, skip_ready
from .warm import Warm
from .warmpool import WarmPool

logger = logging.getLogger("cellwork.worker")

#: Written in the thread that also reads the output, up to here: it fits the buffers in between, so that neither
#: side can wait for the other. A longer one is written beside it.
_DIRECT_PAYLOAD_BYTES = 64 * 1024

#: A name that is taken when it is to be used, and free when it is looked for, is given up after so many tries.
_TRIES = 3

#: Seconds that a warm run has to be over in before its sandbox is renamed, which costs the engine more than most
#: warm runs; and how many are waited for at once.
_RENAME_AFTER, _RENAMERS = 0.05, 4


@dataclass(eq=False)
class RunningSandbox:
    """One that runs a task."""

    container: Container
    streams: Attached | Followed
    #: What it prints, by file descriptor.
    output: Iterator[tuple[int, bytes]]
    adopted: bool = False
    warm: bool = False
    #: It is about to be removed.
    over: threading.Event = field(default_factory=threading.Event)
    #: Another one has the task's name.
    doubled: bool = False


class Starter:
    """Safe to use from many threads."""

    def __init__(self, containers: Containers, limits: WarmLimits, labels: dict[str, str]) -> None:
        """`labels`: the worker's."""
        self._containers = containers
        self._renaming = ThreadPoolExecutor(_RENAMERS, thread_name_prefix="docker-rename")
        self.warm = WarmPool(containers, limits, labels)

    def sandbox(self, launch: Launch) -> RunningSandbox:
        """One with the task in it. `over` is to be called in any case.

        Raises:
            EngineUnavailable, ImageUnavailable, StartTimeout, InvalidSpec, SandboxLost.
        """
        return self._claimed(launch) or self._found(launch, launch.alias) or self._new(launch)

    def over(self, launch: Launch) -> None:
        """The launch has ended."""
        self.warm.end(launch)

    def _claimed(self, launch: Launch) -> RunningSandbox | None:
        while (warm := self.warm.claim(launch)) is not None:
            if not launch.note(warm.container.name):
                self._drop(warm)
                return None
            try:
                launch.confirm()
                warm.streams.write((launch.payload or b"")[launch.ahead :])
            except OSError:
                # It died while it waited, and has seen nothing of the task.
                self._drop(warm)
                self.warm.end(launch)
                continue
            except BaseException:
                self._drop(warm)
                raise
            sandbox = RunningSandbox(warm.container, warm.streams, warm.pieces(), warm=True)
            self._renaming.submit(self._rename, launch, sandbox)
            return sandbox
        return None

    def _found(self, launch: Launch, name: str) -> RunningSandbox | None:
        found = self._containers.find(launch, name) if name else None
        if found is None:
            return None
        container, followed = found
        output = chunks(followed.read, Demux())
        return RunningSandbox(container, followed, skip_ready(output) if container.warm else output, adopted=True)

    def _new(self, launch: Launch) -> RunningSandbox:
        for _ in range(_TRIES):
            if (started := self._containers.start(launch)) is not None:
                container, streams = started
                self._send(launch, container, streams)
                return RunningSandbox(container, streams, chunks(streams.read, Demux()))
            if (found := self._found(launch, launch.id)) is not None:
                return found
        raise SandboxLost(
            f"task {launch.task}: the engine has a container {launch.id} that it can neither start nor remove, so the "
            f"task gets a sandbox of another name; remove that one once the engine can (docker rm -f)"
        )

    def _drop(self, warm: Warm) -> None:
        warm.streams.close()
        self._containers.remove(warm.container)

    def _rename(self, launch: Launch, sandbox: RunningSandbox) -> None:
        """Give it the task's name, for people to find it by; beside the task, which may be over sooner."""
        if sandbox.over.wait(_RENAME_AFTER):
            return
        engine = self._containers.engine
        try:
            with engine.errors(f"to rename sandbox {sandbox.container.name} to {launch.id}"):
                engine.client.rename(sandbox.container.id, launch.id)
        except APIError as error:
            if name_taken(error) and self._containers.began(launch.id):
                logger.error("task %s[%s] has a sandbox already; the second one is ended", launch.task, launch.task_id)
                sandbox.doubled = True
                engine.client.kill(sandbox.container.id, Signals(SIGKILL).name)
            elif not sandbox.over.is_set():
                logger.warning("sandbox %s keeps its name: %s", sandbox.container.name, answer(error))
        except EngineUnavailable as error:
            logger.warning("%s", error)

    def _send(self, launch: Launch, container: Container, streams: Attached) -> None:
        if (payload := launch.payload) is None:
            return
        direct = len(payload) <= _DIRECT_PAYLOAD_BYTES
        try:
            launch.confirm()
            if direct:
                streams.write(payload)
        except BaseException:
            streams.close()
            self._containers.drop(container)
            raise
        if direct:
            return

        def send() -> None:
            try:
                streams.write(payload)
            except OSError:
                # It ended before it had read everything; how it ended is known from its exit.
                return

        threading.Thread(target=send, name=f"{launch.id}-payload", daemon=True).start()
