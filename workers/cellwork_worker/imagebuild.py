"""Images that tasks declare: there before a sandbox is made of one, and built once for all workers of an engine."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from msgspec.structs import replace
from redis import RedisError
from redis.exceptions import LockError
from redis.lock import Lock

from cellwork import declared, settings
from cellwork.broker import Broker
from cellwork.errors import BrokerUnavailable, ImageBuildFailed, InvalidSpec
from cellwork.image import Image
from cellwork.spec import ContainerSpec
from cellwork_worker import policy
from cellwork_worker.job import Ended, Job
from cellwork_worker.policy import Policy
from cellwork_worker.secret_source import SecretSource

logger = logging.getLogger("cellwork.worker")

#: Seconds after which the lock of a worker that died while it built is free; renewed every third of it.
_LOCK_SECONDS = 30.0
#: Seconds between two looks at a lock that another worker has.
_LOOK_SECONDS = 0.5
#: Seconds for which a build that failed is not tried again: all tasks that wait for it fail alike.
_FAILURE_SECONDS = 60.0

#: ``say(step, of, text)``: what a build is at.
Say = Callable[[int, int, str], None]


class Builder(Protocol):
    """What builds images; the sandboxes of its executor see them."""

    def has(self, tag: str) -> bool:
        """True if the image is there."""

    def pull(self, task: str, spec: ContainerSpec) -> bool:
        """Pull the spec's image; False: its registry does not give it."""

    def build(
        self, image: Image, tag: str, labels: dict[str, str], timeout: float, say: Say, secrets: Mapping[str, str]
    ) -> None:
        """Build; `timeout` in seconds. `secrets`: those that the image names, which must not stay anywhere.

        Raises:
            ImageBuildFailed: with the failing step and the last lines that it printed.
        """


@runtime_checkable
class Builds(Protocol):
    """An executor whose sandboxes are made of images, and that can build them."""

    images: Builder

    def place(self) -> str:
        """See `cellwork_worker.executors.base.Executor`."""


class Images:
    """The declared images of a worker's app. Called from several threads at once."""

    def __init__(self, app: Any, rules: Policy, broker: Broker) -> None:
        """`broker`: keeps the lock that workers of one engine share."""
        self._app = app
        self._policy = rules
        self._broker = broker
        self._declared: dict[str, Image] | None = None
        self._present: set[str] = set()
        self._failed: dict[str, tuple[float, str]] = {}

    def ensure(self, task: str, spec: ContainerSpec, executor: object, job: Job) -> ContainerSpec:
        """Make sure that the image is there, where a task of the app declares it; return the spec to run.

        Raises:
            PolicyViolation: it is missing, and this worker may not build it.
            ImageBuildFailed: its build failed, now or a moment ago.
            Ended: somebody ended the job while it waited for another worker's build.
            BrokerUnavailable, EngineUnavailable: try again.
        """
        image = self._known().get(spec.image or "")
        if image is None or not isinstance(executor, Builds):
            return spec
        tag = str(spec.image)
        if tag not in self._present:
            if not executor.images.has(tag):
                self._obtain(task, spec, image, executor, job)
            self._present.add(tag)
        # Nobody else has an image that is only built.
        return spec if image.registry else replace(spec, pull="never")

    def forget(self, spec: ContainerSpec) -> bool:
        """Look for the spec's image anew; False: it is not a declared one that was there."""
        tag = spec.image or ""
        if tag not in self._present:
            return False
        self._present.discard(tag)
        return True

    def _known(self) -> dict[str, Image]:
        if self._declared is None:
            self._declared = {tag: found.image for tag, found in declared.images(self._app).items()}
        return self._declared

    def _obtain(self, task: str, spec: ContainerSpec, image: Image, executor: Builds, job: Job) -> None:
        tag = str(spec.image)
        if image.registry and executor.images.pull(task, spec):
            return
        policy.check_build(task, image, self._policy)
        with self._alone(task, tag, executor.place(), job):
            if not executor.images.has(tag):
                self._build(task, tag, image, executor.images)

    def _build(self, task: str, tag: str, image: Image, builder: Builder) -> None:
        when, why = self._failed.get(tag, (0.0, ""))
        if why and time.monotonic() - when < _FAILURE_SECONDS:
            raise ImageBuildFailed(why)
        began = time.monotonic()
        logger.info("image %s is built for task %s", tag, task)
        try:
            build(image, tag, self._app, builder, self._policy.build_timeout, lambda step, of, text: None)
        except (ImageBuildFailed, InvalidSpec) as error:
            self._failed[tag] = time.monotonic(), f"task {task}: {error}"
            raise ImageBuildFailed(f"task {task}: {error}") from error
        logger.info("image %s was built in %.1f s", tag, time.monotonic() - began)

    @contextmanager
    def _alone(self, task: str, tag: str, place: str, job: Job) -> Iterator[None]:
        """Hold the lock of this image on this engine, across threads and workers."""
        lock = Lock(
            self._broker.client, self._broker.key("build", place, tag), timeout=_LOCK_SECONDS, thread_local=False
        )
        try:
            while not lock.acquire(blocking=False):
                if job.wait_ended(_LOOK_SECONDS):
                    raise Ended
        except RedisError as error:
            raise BrokerUnavailable(
                f"task {task}: image {tag} must be built, and the broker that says who builds it does not answer: "
                f"{error}"
            ) from error
        over = threading.Event()
        renewing = threading.Thread(target=_renew, args=(lock, over), name="cellwork-build-lock", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            over.set()
            renewing.join()
            try:
                lock.release()
            except (LockError, RedisError) as error:
                logger.warning("the lock of the build of %s could not be released: %s; it ends by itself", tag, error)


def _renew(lock: Lock, over: threading.Event) -> None:
    while not over.wait(_LOCK_SECONDS / 3):
        try:
            lock.reacquire()
        except (LockError, RedisError) as error:
            # At worst another worker builds the same image beside us.
            logger.warning("the lock of an image's build could not be renewed: %s", error)


def build(image: Image, tag: str, app: Any, builder: Builder, timeout: float, say: Say) -> None:
    """Build a declared image under its tag.

    Args:
        app: the application, whose name ``cellwork images prune`` goes by.
        timeout: seconds.

    Raises:
        ImageBuildFailed, InvalidSpec, EngineUnavailable
    """
    if image.tag != tag:
        raise ImageBuildFailed(
            f"image {tag}: its files have changed since this process loaded the app (they make {image.tag} now); "
            f"restart it"
        )
    labels = {"cellwork.image": image.repository, "cellwork.app": str(app.main), "cellwork.dockerfile": image.text}
    source = SecretSource(settings.load(app).secrets_dir)
    secrets = {name: source.value(f"image {tag}", name) for name in image.secrets}
    builder.build(image, tag, labels, timeout, say, secrets)
