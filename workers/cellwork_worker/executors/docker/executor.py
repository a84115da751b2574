"""The executor: has a container started, reads it, removes it."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Set
from signal import SIGKILL, Signals

import msgspec
from docker.errors import APIError, NotFound

from cellwork.errors import EngineUnavailable, SandboxLost
from cellwork.quantity import format_bytes
from cellwork_worker.executors.base import STARTED, Abandoned, Capacity, Emit, Exit, Health, Sandbox, Usage
from cellwork_worker.launch import Launch, worker_labels

from .build import ImageBuilder
from .containers import Containers
from .demand import WarmLimits
from .ending import exit_of
from .engine import Engine, answer
from .host import clock_of, disk_of
from .listing import listed
from .looks import Looks
from .measuring import Measuring
from .report import LINES, without
from .starter import RunningSandbox, Starter
from .stream import Attached, Demux, chunks, skip_ready
from .usage import usage

_LIMITS = WarmLimits()


class DockerExecutor:
    """One fresh container a task."""

    def __init__(
        self,
        *,
        installation: str,
        worker: str,
        broker: str = "",
        boot: str = "",
        log_max_bytes: int = 10 << 20,
        warm: WarmLimits = _LIMITS,
        base_url: str | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker, broker: labels on every container; `sweep` looks at its own only.
            boot: another one, of this process.
            log_max_bytes: of output that the engine keeps per container.
            warm: how many sandboxes to start ahead of need.
            base_url: the engine's address; default: DOCKER_HOST, else the local socket.
        """
        self._engine = Engine(base_url)
        labels = worker_labels(installation, worker, broker, boot)
        #: Of all processes of this worker, earlier ones too.
        self._labels = {name: value for name, value in labels.items() if name != "cellwork.boot"}
        self._containers = Containers(self._engine, labels, log_max_bytes)
        self._starter = Starter(self._containers, warm, labels)
        self._looks = Looks(self._engine)
        #: Builds images, and pulls built ones.
        self.images = ImageBuilder(self._engine)
        self._running: dict[str, RunningSandbox] = {}
        #: Ended, but not to be removed before `discard`.
        self._kept: dict[str, RunningSandbox] = {}
        #: Left to other workers; None: still being let go of.
        self._abandoned: dict[str, RunningSandbox | None] = {}
        self._place: str | None = None
        #: Of the engine, as `check` saw it last.
        self._version: str | None = None

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        asked = time.monotonic()
        earlier = self._abandoned.pop(launch.id, None)
        try:
            with self._engine.errors(f"for task {launch.task} in sandbox {launch.id}"):
                sandbox = self._starter.sandbox(launch)
                self._inherit(sandbox, earlier or self._kept.get(launch.id))
                start_seconds = time.monotonic() - asked
                measuring = Measuring(self._looks, launch, sandbox.container, emit)
                try:
                    ended = measuring.exit(self._follow(launch, sandbox, measuring.emit))
                finally:
                    measuring.close()
        finally:
            self._starter.over(launch)
        if sandbox.doubled:
            return self.run(msgspec.structs.replace(launch, shape=""), emit)
        return msgspec.structs.replace(
            ended,
            adopted=sandbox.adopted,
            warm=sandbox.warm,
            start_seconds=start_seconds,
            pull_seconds=sandbox.container.pull_seconds,
            image_id=sandbox.container.image_id,
            image_bytes=self._containers.image_bytes(launch.spec.image),
        )

    def _follow(self, launch: Launch, sandbox: RunningSandbox, emit: Emit) -> Exit:
        self._running[launch.id] = sandbox
        try:
            emit(STARTED, b"")
            self._check_ours(launch)
            taken: Counter[int] = Counter()
            for stream, piece in sandbox.output:
                taken[stream] += len(piece)
                if emit(stream, piece):
                    return Exit()
            self._check_ours(launch)
            if isinstance(sandbox.streams, Attached) and any(
                emit(stream, piece) for stream, piece in self._missed(launch, sandbox, taken)
            ):
                return Exit()
            self._check_ours(launch)
            ended = self._exit(launch, sandbox)
            return msgspec.structs.replace(ended, unseen=sandbox.container.breaks != self._engine.breaks)
        finally:
            self._running.pop(launch.id, None)
            sandbox.streams.close()
            if launch.id in self._abandoned:
                self._abandoned[launch.id] = sandbox
            elif launch.keep and not sandbox.doubled:
                self._inherit(sandbox, self._kept.get(launch.id))
                self._kept[launch.id] = sandbox
            else:
                self._remove(launch.id, sandbox)

    def _missed(self, launch: Launch, sandbox: RunningSandbox, taken: Counter[int]) -> Iterator[tuple[int, bytes]]:
        """What came after an attached stream had ended without an outcome: the engine may have restarted, or the
        connection may have been cut, and the sandbox has run on."""
        attached = sandbox.streams
        try:
            sandbox.streams = followed = self._containers.followed(launch, sandbox.container)
        except NotFound:
            return
        attached.close()
        self._check_ours(launch)
        output = chunks(followed.read, Demux())
        for stream, piece in skip_ready(output) if sandbox.warm else output:
            fresh = piece[taken[stream] :]
            taken[stream] = max(0, taken[stream] - len(piece))
            if fresh:
                yield stream, fresh

    def _inherit(self, sandbox: RunningSandbox, earlier: RunningSandbox | None) -> None:
        """This worker adopts what it had left itself: the namespace holder is free again only after this one."""
        if earlier is None or earlier is sandbox:
            return
        if earlier.container.id == sandbox.container.id:
            sandbox.container.holder = sandbox.container.holder or earlier.container.holder
        else:
            self._containers.remove(earlier.container)

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port."""
        try:
            with self._engine.errors(f"to signal sandbox {launch_id}"):
                sandbox = self._running.get(launch_id)
                self._engine.signal(sandbox.container.id if sandbox else launch_id, Signals(signal).name)
        except EngineUnavailable:
            # The task must end for its worker even where the engine cannot end the container.
            if signal == SIGKILL and sandbox is not None:
                sandbox.streams.close()
            raise

    def abandon(self, launch_id: str) -> None:
        """See the port."""
        # It keeps its holder, for its namespace is in use for as long as it runs.
        self._abandoned[launch_id] = None
        if (sandbox := self._running.get(launch_id)) is not None:
            sandbox.streams.close()

    def discard(self, launch_id: str) -> None:
        """See the port."""
        if (sandbox := self._kept.pop(launch_id, None)) is not None:
            self._remove(launch_id, sandbox)
        else:
            self._containers.remover.later(launch_id, launch_id)

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """See the port."""
        try:
            with self._engine.errors(f"to read the log of sandbox {launch_id}"):
                # The engine counts lines; most are longer than this.
                output = bytes(self._engine.client.logs(launch_id, tail=max(1, size // 16) + LINES))
                return without(output, launch_id)[-size:]
        except NotFound:
            return None

    def sandboxes(self) -> list[Sandbox]:
        """See the port."""
        filters = {"label": f"cellwork.installation={self._labels['cellwork.installation']}"}
        with self._engine.errors("to list sandboxes"):
            return listed(self._engine.client.containers(all=True, filters=filters))

    def place(self) -> str:
        """See the port."""
        if self._place is None:
            try:
                with self._engine.errors("to ask who it is"):
                    info = self._engine.client.info()
            except (EngineUnavailable, APIError):
                return "docker-unknown"
            # Not the engine's id alone: machines that were cloned have the same one, and two engines of one machine.
            who = "\0".join(str(info.get(key)) for key in ("ID", "Name", "DockerRootDir"))
            self._place = f"docker-{hashlib.sha256(who.encode()).hexdigest()[:16]}"
        return self._place

    def sweep(self, live: Set[str]) -> list[str]:
        """See the port. Holders that no sandbox uses go too; new ones are made when needed."""
        filters = {"label": [f"{key}={value}" for key, value in self._labels.items()]}
        with self._engine.errors("to list sandboxes"):
            found = self._engine.client.containers(all=True, filters=filters)
            spared = {sandbox.container.id for name, sandbox in self._running.items() if name in live}
            spared.update(sandbox.container.id for sandbox in self._abandoned.values() if sandbox is not None)
            names = {c["Names"][0].lstrip("/"): c["Id"] for c in found if c["Names"] and c["Id"] not in spared}
            ended = [name for name in names if name not in live and not self._keeps(name)]
            for name in ended:
                self._containers.remover.later(name, names[name])
            self._forget_abandoned({container["Id"] for container in found})
            self._starter.warm.drop_idle()
            self._containers.remover.wait()
            left = listed(self._engine.client.containers(all=True, filters=filters))
            self._containers.holders.drop_unused({sandbox.id for sandbox in left if sandbox.needed})
        return ended

    def check(self) -> Health:
        """See the port."""
        try:
            with self._engine.errors("to ask for its version"):
                info = self._engine.client.info()
        except (EngineUnavailable, APIError) as error:
            return Health(executor="docker", ok=False, detail=str(error))
        self._version = f"Docker {info.get('ServerVersion')} at {self._engine.address}"
        disk, full = disk_of(info, self._engine.address)
        facts = {
            "address": self._engine.address,
            "storage": str(info.get("Driver")),
            "cgroup": f"v{info.get('CgroupVersion', '1')} ({info.get('CgroupDriver')})",
            "processors": str(info.get("NCPU")),
            "memory": format_bytes(int(info.get("MemTotal") or 0)),
            "runtimes": ", ".join(sorted(info.get("Runtimes") or {})),
            "live-restore": "on" if info.get("LiveRestoreEnabled") else "off: its restart ends what runs",
            "disk": disk,
            "clock": clock_of(info),
        }
        kind = "Podman" if self._engine.podman else "Docker engine"
        detail = f"{kind} {info.get('ServerVersion')}" + (f", {full}" if full else "")
        return Health(executor="docker", ok=not full, detail=detail, facts=facts)

    def capacity(self) -> Capacity:
        """See `Hosted`."""
        try:
            with self._engine.errors("to ask what it has"):
                info = self._engine.ask(lambda: self._engine.client.info())
        except APIError as error:
            raise EngineUnavailable(f"the engine does not say how much memory it has: {answer(error)}") from error
        return Capacity(int(info["MemTotal"]), float(info["NCPU"]))

    def spare(self, memory: int) -> None:
        """See `Hosted`."""
        self._starter.warm.spare(memory)

    def facts(self) -> dict[str, object]:
        """What the worker's inspection shows of it."""
        warm = self._starter.warm.facts()
        return {"engine": self._version or "not asked yet", "warm sandboxes": self._starter.warm.told(), "warm": warm}

    def usage(self, launch_id: str) -> Usage | None:
        """See `Metered`. The engine compares two moments, a second apart."""
        if (sandbox := self._running.get(launch_id)) is None:
            return None
        try:
            with self._engine.errors(f"to measure sandbox {launch_id}"):
                return usage(self._engine.client.stats(sandbox.container.id, stream=False))
        except APIError:
            return None  # it has just ended

    def _forget_abandoned(self, there: Set[str]) -> None:
        for launch_id, sandbox in list(self._abandoned.items()):
            if sandbox is not None and sandbox.container.id not in there:
                # Its adopter has removed it, and so its holder is free.
                self._containers.left(sandbox.container)
                del self._abandoned[launch_id]

    def _keeps(self, name: str) -> bool:
        return name in self._containers.holders or name in self._starter.warm

    def _check_ours(self, launch: Launch) -> None:
        if launch.id in self._abandoned:
            raise Abandoned(f"task {launch.task}: sandbox {launch.id} was left to another worker")

    def _remove(self, launch_id: str, sandbox: RunningSandbox) -> None:
        sandbox.over.set()
        # Its streams are closed, so a runner leaves; a command has ended.
        self._containers.remove(sandbox.container, None if sandbox.doubled else launch_id, ending=True)

    def _exit(self, launch: Launch, sandbox: RunningSandbox) -> Exit:
        try:
            return exit_of(self._engine, sandbox.container.id)
        except NotFound:
            if sandbox.doubled:
                return Exit()
            raise SandboxLost(
                f"task {launch.task}: sandbox {launch.id} was removed while it ran, by something other than this "
                f"worker (docker rm, another program of its host); its engine's events say more: docker events"
            ) from None
