"""The executor: create, attach, start, feed, read, remove."""

import threading
import time
from collections.abc import Set
from http import HTTPStatus
from signal import SIGKILL, Signals

import msgspec
from docker.errors import APIError, ImageNotFound, NotFound

from cellwork.errors import EngineUnavailable, ImageUnavailable, InvalidSpec, SandboxLost
from cellwork_worker.executors.base import STARTED, Abandoned, Emit, Exit, Health, Sandbox
from cellwork_worker.launch import Launch

from .container import container_config
from .engine import Engine, answer
from .holders import Holders, may_join
from .images import pull
from .listing import listed
from .removal import Remover
from .stream import Attached, Followed, chunks

#: Written in the thread that also reads the output, up to here: it fits the buffers in between, so that neither
#: side can wait for the other. A longer one is written beside it.
_DIRECT_PAYLOAD_BYTES = 64 * 1024

#: 128 + SIGKILL. Nothing inside can send that to the sandbox's first process, so it came from outside.
_KILLED = 128 + SIGKILL


class DockerExecutor:
    """One fresh container a task."""

    def __init__(
        self, *, installation: str, worker: str, log_max_bytes: int = 10 << 20, base_url: str | None = None
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker: labels on every container; `sweep` looks at its own only.
            log_max_bytes: of output that the engine keeps per container.
            base_url: the engine's address; default: DOCKER_HOST, else the local socket.
        """
        self._engine = Engine(base_url)
        self._labels = {"cellwork.installation": installation, "cellwork.worker": worker}
        self._log_max_bytes = log_max_bytes
        self._remover = Remover(self._engine)
        self._holders = Holders(self._engine, self._labels)
        self._joined: dict[str, tuple[str, str]] = {}
        self._attached: dict[str, Attached | Followed] = {}
        self._abandoned: set[str] = set()
        #: Name to id, of what is created and not yet started.
        self._made: dict[str, str] = {}
        self._place: str | None = None

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        asked = time.monotonic()
        with self._engine.errors(f"for task {launch.task} in sandbox {launch.id}"):
            streams = self._start(launch)
            start_seconds = time.monotonic() - asked
            self._attached[launch.id] = streams
            try:
                emit(STARTED, b"")
                self._check_ours(launch)
                complete = any(emit(stream, chunk) for stream, chunk in chunks(streams.read))
                if not complete:
                    self._check_ours(launch)
                ended = Exit() if complete else self._exit(launch)
            finally:
                self._attached.pop(launch.id, None)
                streams.close()
                if not launch.keep:
                    self._remove(launch.id)
        return msgspec.structs.replace(ended, adopted=isinstance(streams, Followed), start_seconds=start_seconds)

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port."""
        try:
            with self._engine.errors(f"to signal sandbox {launch_id}"):
                self._engine.client.kill(launch_id, Signals(signal).name)
        except APIError as error:
            if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
        except EngineUnavailable:
            # The task must end for its worker even where the engine cannot end the container.
            if signal == SIGKILL and (streams := self._attached.get(launch_id)):
                streams.close()
            raise

    def abandon(self, launch_id: str) -> None:
        """See the port."""
        # It keeps its holder, for its namespace is in use for as long as it runs.
        self._abandoned.add(launch_id)
        if (streams := self._attached.get(launch_id)) is not None:
            streams.close()

    def discard(self, launch_id: str) -> None:
        """See the port."""
        self._remove(launch_id)

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """See the port."""
        try:
            with self._engine.errors(f"to read the log of sandbox {launch_id}"):
                # The engine counts lines; most are longer than this.
                return bytes(self._engine.client.logs(launch_id, tail=max(1, size // 16)))[-size:]
        except NotFound:
            return None

    def sandboxes(self) -> list[Sandbox]:
        """See the port."""
        filters = {"label": f"cellwork.installation={self._labels['cellwork.installation']}"}
        with self._engine.errors("to list sandboxes"):
            return listed(self._engine.client.containers(all=True, filters=filters))

    def place(self) -> str:
        """See the port: the engine's own id."""
        if self._place is None:
            try:
                with self._engine.errors("to ask who it is"):
                    self._place = f"docker-{self._engine.client.info().get('ID')}"
            except (EngineUnavailable, APIError):
                return "docker-unknown"
        return self._place

    def sweep(self, live: Set[str]) -> list[str]:
        """See the port. Holders that no sandbox uses go too; new ones are made when needed."""
        filters = {"label": [f"{key}={value}" for key, value in self._labels.items()]}
        with self._engine.errors("to list sandboxes"):
            found = self._engine.client.containers(all=True, filters=filters)
            names = [container["Names"][0].lstrip("/") for container in found if container["Names"]]
            ended = [name for name in names if name not in live | self._abandoned and name not in self._holders]
            for name in ended:
                self._remove(name)
            for name in self._abandoned - set(names):
                # Its adopter has removed it, and so its holder is free.
                self._leave(name, removed=True)
            self._remover.wait()
            self._holders.drop_idle()
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

    def _start(self, launch: Launch) -> Attached | Followed:
        if not self._create(launch):
            adopted = self._adopt(launch)
            if adopted is not None:
                return adopted
            # Created by a worker that died before it could start it: nothing has run in there.
            self._remover.now(launch.id)
            self._create(launch)
        try:
            return self._attach_and_start(launch)
        except APIError as error:
            if launch.id not in self._joined:
                raise _refused(launch, error) from error
        # The holder may have gone; a namespace of its own needs none.
        self._remover.now(launch.id)
        self._create(launch, join=False)
        try:
            return self._attach_and_start(launch)
        except APIError as error:
            raise _refused(launch, error) from error

    def _attach_and_start(self, launch: Launch) -> Attached:
        client = self._engine.client
        # Not by name: a worker that was away meanwhile might find another one's container under it.
        container = self._made.pop(launch.id)
        try:
            streams = Attached(client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}))
            try:
                if launch.payload is None:
                    self._confirm(launch)
                client.start(container)
                if launch.payload is not None:
                    self._confirm(launch)
                self._send(launch, streams)
            except BaseException:
                streams.close()
                raise
        except APIError:
            if launch.id not in self._joined:
                self._remove(launch.id, container)
            raise
        except BaseException:
            self._remove(launch.id, container)
            raise
        return streams

    def _confirm(self, launch: Launch) -> None:
        """The body begins with the payload, or, where there is none, with the start."""
        if launch.confirm is not None:
            launch.confirm()

    def _create(self, launch: Launch, *, join: bool = True) -> bool:
        """Create the container, pulling its image where asked. False: there is one with this name already."""
        spec = launch.spec
        self._leave(launch.id, removed=False)
        self._abandoned.discard(launch.id)
        deadline = time.monotonic() + (spec.start_timeout or 0)
        if spec.pull == "always":
            pull(self._engine, launch, deadline)
        try:
            try:
                self._post(launch, join)
            except ImageNotFound:
                if spec.pull != "missing":
                    raise
                pull(self._engine, launch, deadline)
                self._post(launch, join)
        except ImageNotFound as error:
            raise ImageUnavailable(
                f"task {launch.task}: image {spec.image} is not on the engine at {self._engine.address} "
                f"(pull={spec.pull}): {answer(error)}"
            ) from error
        except APIError as error:
            if error.status_code == HTTPStatus.CONFLICT and "already in use" in answer(error):
                return False
            raise _refused(launch, error) from error
        return True

    def _post(self, launch: Launch, join: bool) -> None:
        image = launch.spec.image or ""
        holder = self._holders.acquire(image) if join and may_join(launch.spec) else None
        config = container_config(launch, self._log_max_bytes, holder)
        try:
            made = self._engine.client.create_container_from_config(config, launch.id, launch.spec.platform)
        except BaseException:
            if holder is not None:
                self._holders.release(image, holder)
            raise
        self._made[launch.id] = made["Id"]
        if holder is not None:
            self._joined[launch.id] = image, holder

    def _adopt(self, launch: Launch) -> Followed | None:
        """The output, from its first line, of a sandbox that has this name. None: it never started, or is gone."""
        client = self._engine.client
        if self._remover.wait(launch.id):
            return None
        try:
            state = client.inspect_container(launch.id)["State"]
        except NotFound:
            return None
        if state["Status"] == "created":
            return None
        url = f"{client.base_url}/v{client.api_version}/containers/{launch.id}/logs"
        response = client.get(url, params={"follow": 1, "stdout": 1, "stderr": 1}, stream=True, timeout=None)
        response.raise_for_status()
        return Followed(response)

    def _send(self, launch: Launch, streams: Attached) -> None:
        if len(launch.payload or b"") <= _DIRECT_PAYLOAD_BYTES:
            streams.send(launch.payload)
            return

        def send() -> None:
            try:
                streams.send(launch.payload)
            except OSError:
                # It ended before it had read everything; how it ended is known from its exit.
                return

        threading.Thread(target=send, name=f"{launch.id}-payload", daemon=True).start()

    def _check_ours(self, launch: Launch) -> None:
        if launch.id in self._abandoned:
            raise Abandoned(f"task {launch.task}: sandbox {launch.id} was left to another worker")

    def _exit(self, launch: Launch) -> Exit:
        client = self._engine.client
        try:
            client.wait(launch.id, timeout=None)
            state = client.inspect_container(launch.id)["State"]
        except NotFound:
            raise SandboxLost(
                f"task {launch.task}: sandbox {launch.id} was removed while it ran, by something other than this worker"
            ) from None
        code = state["ExitCode"]
        return Exit(code=code, oom=state["OOMKilled"], killed=code == _KILLED, detail=state.get("Error") or "")

    def _remove(self, name: str, container: str | None = None) -> None:
        """Kill and remove in the background, by id if given; its network namespace is free when that is done."""
        self._remover.later(container or name, lambda removed: self._leave(name, removed=removed))

    def _leave(self, name: str, *, removed: bool) -> None:
        """It uses its holder no more. Where it may still be in there, the holder goes too."""
        image, holder = self._joined.pop(name, ("", ""))
        if holder and removed:
            self._holders.release(image, holder)
        elif holder:
            self._holders.discard(holder)


def _refused(launch: Launch, error: APIError) -> Exception:
    """The engine's refusal to create or start, for the one who wrote the spec."""
    if (error.status_code or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR and "no such file" not in answer(error).lower():
        return EngineUnavailable(f"task {launch.task}: the engine could not start sandbox {launch.id}: {answer(error)}")
    return InvalidSpec(f"task {launch.task}: the engine refuses sandbox {launch.id}: {answer(error)}")
