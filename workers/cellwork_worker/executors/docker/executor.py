"""The executor: take or start a container, feed it, read it, remove it."""

import logging
import threading
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from signal import SIGKILL, Signals

import msgspec
from docker.errors import APIError, NotFound

from cellwork.errors import EngineUnavailable, SandboxLost
from cellwork_worker.executors.base import STARTED, Emit, Exit, Health, Usage
from cellwork_worker.launch import Launch

from .containers import Container, Containers
from .demand import WarmLimits
from .engine import Engine, answer
from .stream import Attached, Demux, Followed, chunks, skip_ready
from .usage import usage
from .warmpool import WarmPool

logger = logging.getLogger("cellwork.worker")

#: Written in the thread that also reads the output, up to here: it fits the buffers in between, so that neither
#: side can wait for the other. A longer one is written beside it.
_DIRECT_PAYLOAD_BYTES = 64 * 1024

#: 128 + SIGKILL. Nothing inside can send that to the sandbox's first process, so it came from outside.
_KILLED = 128 + SIGKILL


#: A name that is taken when it is to be used, and free when it is looked for, is given up after so many tries.
_ADOPTION_TRIES = 3

#: Seconds that a warm run has to be over in before its sandbox is renamed, which costs the engine more than most
#: warm runs; and how many are waited for at once.
_RENAME_AFTER, _RENAMERS = 0.05, 4

_LIMITS = WarmLimits()


class DockerExecutor:
    """One fresh container a task."""

    def __init__(
        self,
        *,
        installation: str,
        worker: str,
        log_max_bytes: int = 10 << 20,
        warm: WarmLimits = _LIMITS,
        base_url: str | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker: labels on every container; `sweep` looks at its own only.
            log_max_bytes: of output that the engine keeps per container.
            warm: how many sandboxes to start ahead of need.
            base_url: the engine's address; default: DOCKER_HOST, else the local socket.
        """
        self._engine = Engine(base_url)
        self._labels = {"cellwork.installation": installation, "cellwork.worker": worker}
        self._containers = Containers(self._engine, self._labels, log_max_bytes)
        self._warm = WarmPool(self._containers, warm, self._labels)
        self._running: dict[str, _Sandbox] = {}
        self._renaming = ThreadPoolExecutor(_RENAMERS, thread_name_prefix="docker-rename")

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        asked = time.monotonic()
        try:
            with self._engine.errors(f"for task {launch.task} in sandbox {launch.id}"):
                sandbox = self._sandbox(launch)
                start_seconds = time.monotonic() - asked
                self._running[launch.id] = sandbox
                try:
                    emit(STARTED, b"")
                    complete = any(emit(stream, piece) for stream, piece in sandbox.output)
                    ended = Exit() if complete else self._exit(launch, sandbox)
                finally:
                    self._running.pop(launch.id, None)
                    sandbox.over.set()
                    sandbox.streams.close()
                    self._containers.remove(sandbox.container, None if sandbox.doubled else launch.id)
        finally:
            self._warm.end(launch)
        if sandbox.doubled:
            return self.run(msgspec.structs.replace(launch, shape=""), emit)
        return msgspec.structs.replace(ended, adopted=sandbox.adopted, warm=sandbox.warm, start_seconds=start_seconds)

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port."""
        try:
            with self._engine.errors(f"to signal sandbox {launch_id}"):
                sandbox = self._running.get(launch_id)
                self._engine.client.kill(sandbox.container.id if sandbox else launch_id, Signals(signal).name)
        except APIError as error:
            if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
        except EngineUnavailable:
            # The task must end for its worker even where the engine cannot end the container.
            if signal == SIGKILL and sandbox is not None:
                sandbox.streams.close()
            raise

    def sweep(self, live: Set[str]) -> list[str]:
        """See the port. Holders that no sandbox uses go too; new ones are made when needed."""
        filters = {"label": [f"{key}={value}" for key, value in self._labels.items()]}
        with self._engine.errors("to list sandboxes"):
            found = self._engine.client.containers(all=True, filters=filters)
            running = {sandbox.container.id for name, sandbox in self._running.items() if name in live}
            names = {c["Names"][0].lstrip("/"): c["Id"] for c in found if c["Names"] and c["Id"] not in running}
            ended = [name for name in names if name not in live and not self._keeps(name)]
            for name in ended:
                self._containers.remover.later(name, names[name])
            self._warm.drop_idle()
            self._containers.remover.wait()
            self._containers.holders.drop_idle()
        return ended

    def check(self) -> Health:
        """See the port."""
        try:
            with self._engine.errors("to ask for its version"):
                info = self._engine.client.info()
        except (EngineUnavailable, APIError) as error:
            return Health(executor="docker", ok=False, detail=str(error))
        facts = {
            "address": self._engine.address,
            "storage": str(info.get("Driver")),
            "cgroup": f"v{info.get('CgroupVersion', '1')} ({info.get('CgroupDriver')})",
            "processors": str(info.get("NCPU")),
            "memory": str(info.get("MemTotal")),
            "runtimes": ", ".join(sorted(info.get("Runtimes") or {})),
            "live-restore": str(info.get("LiveRestoreEnabled")),
        }
        return Health(executor="docker", ok=True, detail=f"Docker engine {info.get('ServerVersion')}", facts=facts)

    def facts(self) -> dict[str, object]:
        """What the worker's inspection shows of it."""
        return {"warm": self._warm.facts()}

    def usage(self, launch_id: str) -> Usage | None:
        """See `Metered`. The engine compares two moments, a second apart."""
        if (sandbox := self._running.get(launch_id)) is None:
            return None
        try:
            with self._engine.errors(f"to measure sandbox {launch_id}"):
                return usage(self._engine.client.stats(sandbox.container.id, stream=False))
        except APIError:
            return None  # it has just ended

    def _keeps(self, name: str) -> bool:
        return name in self._containers.holders or name in self._warm

    def _sandbox(self, launch: Launch) -> "_Sandbox":
        """One that waited for it, or one that an earlier delivery started, or a new one."""
        while (warm := self._warm.claim(launch)) is not None:
            try:
                warm.streams.write((launch.payload or b"")[launch.ahead :])
                warm.streams.end_input()
            except OSError:
                # It died while it waited, and has seen nothing of the task.
                warm.streams.close()
                self._containers.remove(warm.container)
                self._warm.end(launch)
                continue
            sandbox = _Sandbox(warm.container, warm.streams, warm.pieces(), warm=True)
            self._running[launch.id] = sandbox
            self._renaming.submit(self._rename, launch, sandbox)
            return sandbox
        for _ in range(_ADOPTION_TRIES):
            if (started := self._containers.start(launch)) is not None:
                container, streams = started
                self._send(launch, container, streams)
                return _Sandbox(container, streams, chunks(streams.read, Demux()))
            if (found := self._containers.find(launch)) is not None:
                container, followed = found
                output = chunks(followed.read, Demux())
                return _Sandbox(container, followed, skip_ready(output) if container.warm else output, adopted=True)
        raise EngineUnavailable(
            f"task {launch.task}: the engine has a sandbox {launch.id} that can be neither used nor replaced"
        )

    def _rename(self, launch: Launch, sandbox: "_Sandbox") -> None:
        """Give it the name by which a second delivery finds it; beside the task, which may be over sooner."""
        if sandbox.over.wait(_RENAME_AFTER):
            return
        try:
            with self._engine.errors(f"to rename sandbox {sandbox.container.name} to {launch.id}"):
                self._engine.client.rename(sandbox.container.id, launch.id)
        except APIError as error:
            if error.status_code == HTTPStatus.CONFLICT and "already in use" in answer(error):
                logger.error("task %s[%s] has a sandbox already; the second one is ended", launch.task, launch.task_id)
                sandbox.doubled = True
                self.stop(launch.id, SIGKILL)
            elif not sandbox.over.is_set():
                logger.warning("sandbox %s keeps its name: %s", sandbox.container.name, answer(error))
        except EngineUnavailable as error:
            logger.warning("%s", error)

    def _send(self, launch: Launch, container: Container, streams: Attached) -> None:
        payload = launch.payload or b""
        if len(payload) <= _DIRECT_PAYLOAD_BYTES:
            try:
                streams.write(payload)
                streams.end_input()
            except BaseException:
                streams.close()
                self._containers.remove(container)
                raise
            return

        def send() -> None:
            try:
                streams.write(payload)
                streams.end_input()
            except OSError:
                # It ended before it had read everything; how it ended is known from its exit.
                return

        threading.Thread(target=send, name=f"{launch.id}-payload", daemon=True).start()

    def _exit(self, launch: Launch, sandbox: "_Sandbox") -> Exit:
        client = self._engine.client
        try:
            client.wait(sandbox.container.id, timeout=None)
            state = client.inspect_container(sandbox.container.id)["State"]
        except NotFound:
            if sandbox.doubled:
                return Exit()
            raise SandboxLost(
                f"task {launch.task}: sandbox {launch.id} was removed while it ran, by something other than this worker"
            ) from None
        code = state["ExitCode"]
        return Exit(code=code, oom=state["OOMKilled"], killed=code == _KILLED, detail=state.get("Error") or "")


@dataclass(eq=False)
class _Sandbox:
    """One that runs a task."""

    container: Container
    streams: Attached | Followed
    #: What it prints, by file descriptor.
    output: Iterator[tuple[int, bytes]]
    adopted: bool = False
    warm: bool = False
    #: Nothing more is wanted of it.
    over: threading.Event = field(default_factory=threading.Event)
    #: Another one has the task's name.
    doubled: bool = False
