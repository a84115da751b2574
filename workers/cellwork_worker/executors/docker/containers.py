"""The life of a container: create, join a namespace, attach, start, remove."""

import logging
import time
from dataclasses import dataclass
from http import HTTPStatus

import requests
from docker.errors import APIError, ImageNotFound, NotFound

from cellwork.errors import EngineUnavailable, ImageUnavailable, InvalidSpec
from cellwork_worker.executors import shell
from cellwork_worker.launch import Launch

from .container import container_config
from .engine import Engine, answer, name_taken
from .facts import ImageFacts
from .followed import PATIENCE, Followed
from .holders import Holders, may_join
from .images import pull
from .removal import Remover
from .report import mark
from .stream import Attached

logger = logging.getLogger("cellwork.worker")

#: Ends a runner that has no task (docs/protocol.md), and is ignored by one that has.
_HAVE_YOU_A_TASK = "SIGURG"

#: When a container was started that never was.
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(eq=False)
class Container:
    """One on the engine."""

    #: The name it was created with.
    name: str
    #: The engine's id, which stays when it is renamed.
    id: str
    image: str
    #: The one whose network namespace it uses.
    holder: str | None
    #: Started ahead of need.
    warm: bool = False
    #: The engine's id of its image; empty: not known.
    image_id: str = ""
    #: What it took to pull its image; None: it was there.
    pull_seconds: float | None = None
    #: That which its command runs under; None: none, or it is not known.
    shell: str | None = None
    #: Of the engine's `breaks`, as many as there were when it was last seen to run.
    breaks: int = 0


class Containers:
    """Makes and ends them; safe to use from many threads."""

    def __init__(self, engine: Engine, labels: dict[str, str], log_max_bytes: int) -> None:
        """`labels`: the worker's. `log_max_bytes`: of output that the engine keeps per container."""
        self.engine = engine
        self._images = ImageFacts(engine)
        self._without_shell = shell.Without()
        self.holders = Holders(engine, labels, self._images)
        self.remover = Remover(engine)
        self._log_max_bytes = log_max_bytes
        #: Ids of those that have not got their task and never will, and may still be there.
        self._unused: set[str] = set()

    def start(self, launch: Launch) -> tuple[Container, Attached] | None:
        """Create, attach and start. None: there is a container with this name already.

        Raises:
            EngineUnavailable, ImageUnavailable, StartTimeout, InvalidSpec.
        """
        join = True
        while (container := self._create(launch, join=join)) is not None:
            try:
                return container, self._attach_and_start(launch, container)
            except APIError as error:
                lacks_shell = container.shell == shell.IMAGES and shell.IMAGES in answer(error)
                if container.holder is None and not lacks_shell:
                    self.remove(container)
                    raise self._refusal(launch, error) from error
            self._clear(container.id)
            if lacks_shell:
                self._without_shell.add(container.image)
                self.left(container)
            elif container.holder is not None:
                # It may have gone; a namespace of its own needs none.
                self.holders.discard(container.holder)
                join = False
        return None

    def find(self, launch: Launch, name: str) -> tuple[Container, Followed] | None:
        """The launch's sandbox of an earlier delivery, which has this name, and its output from the first line.

        None: it never started, or is gone.
        """
        client = self.engine.client
        if self.remover.wait(name):
            return None
        try:
            found = client.inspect_container(name)
        except NotFound:
            return None
        if found["State"]["StartedAt"] == _NEVER or found["Id"] in self._unused:
            # Nothing has run in there: the worker died, or its engine went away, before it had started it.
            self._clear(name)
            return None
        warm = "cellwork.warm" in found["Config"]["Labels"]
        container = Container(name, found["Id"], launch.spec.image or "", None, warm, found["Image"])
        try:
            return container, self.followed(launch, container, patience=0)
        except NotFound:
            return None

    def began(self, name: str) -> bool:
        """Whether anything has run, or may have run, in the container of that name."""
        try:
            state = self.engine.client.inspect_container(name)["State"]
        except NotFound:
            return False
        return bool(state["StartedAt"] != _NEVER)

    def image_bytes(self, image: str | None) -> int | None:
        """The size of the image that sandboxes of that name are made of; None: not known."""
        return None if image is None else self._images.size(image)

    def followed(self, launch: Launch, container: Container, patience: float = PATIENCE) -> Followed:
        """The log of the launch's container, whose own connection is broken; `patience`: seconds that it is given to
        have ended.

        Raises:
            docker.errors.NotFound
        """
        client = self.engine.client
        if launch.payload is not None:
            self._end_without_task(container)
        url = f"{client.base_url}/v{client.api_version}/containers/{container.id}/logs"

        def open_log(follow: bool) -> requests.Response:
            wanted = {"follow": int(follow), "stdout": 1, "stderr": 1}
            response = self.engine.ask(lambda: client.get(url, params=wanted, stream=True, timeout=None))
            if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):  # gone, or about to go
                response.close()
                raise NotFound(f"container {container.name} is gone")
            response.raise_for_status()
            return response

        def runs() -> bool:
            try:
                state = self.engine.ask(lambda: client.inspect_container(container.id))["State"]
            except NotFound:
                return False
            if state["Running"]:
                container.breaks = self.engine.breaks
            return bool(state["Running"])

        return Followed(open_log, runs, patience)

    def _end_without_task(self, container: Container) -> None:
        """The task may have been lost on its way into it: then nothing of it runs there, and it would wait for ever."""
        self.engine.ask(lambda: self.engine.signal(container.id, _HAVE_YOU_A_TASK))

    def remove(self, container: Container, name: str | None = None, *, ending: bool = False) -> None:
        """Kill and remove in the background; its network namespace is free when that is done.

        Args:
            container: it.
            name: what `find` is asked for meanwhile, where that is not the name it was created with.
            ending: it is about to end by itself.
        """

        def leave(removed: bool) -> None:
            if removed:
                self._unused.discard(container.id)
                self.left(container)
            elif container.holder is not None:
                # It may still be in there.
                self.holders.discard(container.holder)

        self.remover.later(name or container.name, container.id, leave, ending=ending)

    def _clear(self, name: str) -> None:
        """Remove what nothing has run in, so that its name is free."""
        try:
            self.remover.now(name)
        except APIError as error:
            # An engine that ended while it made one may keep it for ever: "device or resource busy".
            logger.warning("container %s, in which nothing has run, cannot be removed: %s", name, answer(error))

    def drop(self, container: Container) -> None:
        """Remove one that has not got its task, in the background, and never adopt it where the engine is away now."""
        self._unused.add(container.id)
        self.remove(container)

    def left(self, container: Container) -> None:
        """It is gone: another may use its network namespace."""
        if container.holder is not None:
            self.holders.release(container.image, container.holder)

    def _refusal(self, launch: Launch, error: APIError) -> Exception:
        """What the engine's refusal is to the task.

        Raises:
            requests.ConnectionError: it is about to end, and what it said is about itself.
        """
        self.engine.knock()
        return _refused(launch, error)

    def _attach_and_start(self, launch: Launch, container: Container) -> Attached:
        client = self.engine.client
        streams, begins = None, False
        try:
            wanted = {"stdin": int(launch.payload is not None), "stdout": 1, "stderr": 1, "stream": 1}
            streams = Attached(client.attach_socket(container.id, wanted))
            if launch.payload is None:
                launch.confirm()
                begins = True  # with no payload to wait for, the body begins with the start
            client.start(container.id)
        except BaseException as error:
            if streams is not None:
                streams.close()
            if isinstance(error, APIError):
                raise
            if not begins:
                self.drop(container)
            elif container.holder is not None:
                # It may run, and is then adopted; who that is knows nothing of the namespace it uses.
                self.holders.discard(container.holder)
            raise
        return streams

    def _create(self, launch: Launch, *, join: bool) -> Container | None:
        """Create it, pulling its image where asked."""
        spec = launch.spec
        deadline = time.monotonic() + (spec.start_timeout or 0)
        pulled = pull(self.engine, launch, deadline) if spec.pull == "always" else None
        try:
            try:
                container = self._post(launch, join)
            except ImageNotFound:
                if spec.pull != "missing":
                    raise
                pulled = pull(self.engine, launch, deadline)
                container = self._post(launch, join)
        except ImageNotFound as error:
            raise ImageUnavailable(
                f"task {launch.task}: image {spec.image} is not on the engine at {self.engine.address} "
                f"(pull={spec.pull}): {answer(error)}"
            ) from error
        except APIError as error:
            if name_taken(error):
                return None
            raise self._refusal(launch, error) from error
        container.pull_seconds = pulled
        return container

    def _post(self, launch: Launch, join: bool) -> Container:
        image = launch.spec.image or ""
        client = self.engine.client
        # Podman refuses to remove a container whose namespace another one has joined.
        join = join and may_join(launch.spec) and not self.engine.podman
        holder = self.holders.acquire(image) if join else None
        try:
            # A command's program is told to the engine, so it must be that of the image as it is now.
            facts = self._images.of(image, fresh=launch.payload is None)
            borrow = image not in self._without_shell
            words = shell.measured(launch, facts.program, borrow=borrow, mark=mark(launch.id))
            driver = "json-file" if self.engine.podman else "local"
            # An adopted task's outcome is read from there, so never less than the setting.
            kept = max(self._log_max_bytes, launch.spec.log_max or 0)
            config = container_config(launch, kept, holder, facts.volumes, driver, words)
            made = client.create_container_from_config(config, launch.id, launch.spec.platform)
        except BaseException:
            if holder is not None:
                self.holders.release(image, holder)
            raise
        return Container(
            launch.id,
            made["Id"],
            image,
            holder,
            image_id=facts.id,
            shell=None if words is None else words[0],
            breaks=self.engine.breaks,
        )


#: What an engine says with status 500, as if it had failed, where what it is asked for cannot be had: do not wait.
_ASKED_FOR = (
    "no such file",
    "could not select device driver",
    "unable to find user",
    "unable to find group",
    "rlimit",
    "is not a valid action for seccomp",
    "invalid volume specification",
    "invalid mode",
    "sethostname",
    "not a directory",
)


def _refused(launch: Launch, error: APIError) -> Exception:
    """The engine's refusal to create or start, for the one who wrote the spec."""
    said = answer(error).lower()
    if (error.status_code or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR and not any(part in said for part in _ASKED_FOR):
        return EngineUnavailable(f"task {launch.task}: the engine could not start sandbox {launch.id}: {answer(error)}")
    return InvalidSpec(
        f"task {launch.task}: the engine refuses sandbox {launch.id} (image {launch.spec.image}): {answer(error)}. "
        f"Change what the task asks for, or what that host has"
    )
