"""One run of a task in its pod, from the moment that the pod is asked for."""

import threading
import time
from signal import SIGKILL

import msgspec

from cellwork.errors import SandboxLost
from cellwork_worker.executors import shell
from cellwork_worker.executors.base import STDOUT, Abandoned, Emit, Exit
from cellwork_worker.launch import Launch

from . import status
from .api import Api
from .following import Following
from .view import Figures, View


class Run:
    """What its executor asks of it runs in the task's thread; the marks may be set by any."""

    def __init__(self, api: Api, launch: Launch, namespace: str, view: View) -> None:
        """`view`: of `namespace`."""
        self.launch = launch
        self.namespace = namespace
        self.view = view
        self.watched = view.add(launch.id)
        self._api = api
        self._following = Following(api, namespace, self.watched)
        self._asked = time.monotonic()
        #: Seconds until its program ran; None: it does not yet.
        self.start_seconds: float | None = None
        #: Somebody here asked it to end.
        self.stopped = False
        #: At once: whatever status its processes then end with.
        self.killed = False
        self.abandoned = False
        #: The API server did not answer: its pod may be there, and the task may have begun.
        self.unsure = False
        #: Its pod has ended without an outcome, or as a command that failed.
        self.failed = False

    def wait_started(self) -> None:
        """Wait until its program runs, or has run.

        Raises:
            StartTimeout, ImageUnavailable, InvalidSpec: it does not, and why.
            SandboxLost: its pod was deleted by somebody.
            Abandoned
        """
        launch, watched = self.launch, self.watched
        in_time = watched.wait(
            lambda: status.started(watched.pod) or status.hindrance(launch, watched.pod) is not None,
            launch.spec.start_timeout,
        )
        self.check_ours()
        if not in_time:
            raise status.late(launch, watched.pod)
        if (error := status.hindrance(launch, watched.pod)) is not None:
            raise error
        if not status.started(watched.pod) and not self.stopped:
            raise SandboxLost(f"task {launch.task}: pod {launch.id} was deleted before it ran, not by this worker")

    def has_another_pod(self) -> None:
        """What was to be read is that one's."""
        self._following.close()
        self._following = Following(self._api, self.namespace, self.watched)

    def running(self) -> None:
        """Its program runs."""
        self.start_seconds = time.monotonic() - self._asked

    def collect(self, emit: Emit, followers: threading.Semaphore) -> Exit:
        """Give its output to `emit` until that has what it wants, or until its pod has ended; then how that was.

        Args:
            emit: see the port.
            followers: of logs that are followed while they are written; others are read at the end.

        Raises:
            InvalidSpec, SandboxLost, Abandoned
        """
        watched = self.watched
        followed = followers.acquire(blocking=False)
        try:
            if not followed:
                watched.wait(lambda: False)
            if self._following.run(lambda data: emit(STDOUT, data)):
                return Exit()
        finally:
            if followed:
                followers.release()
        watched.wait(lambda: False)
        self.check_ours()
        terminated = status.task_container(watched.pod).state.terminated
        if self.launch.payload is not None and terminated is not None and terminated.message:
            # The runner's last words: its outcome, where that is short and the log was not to be had.
            emit(STDOUT, terminated.message.encode())
        return self._exit()

    def interrupt(self) -> None:
        """Leave its pod as it is: whoever waits for that waits no longer."""
        self.abandoned = True
        self.watched.release()
        self._following.interrupt()

    def check_ours(self) -> None:
        """Raises Abandoned: it was left to another worker."""
        if self.abandoned:
            raise Abandoned(f"task {self.launch.task}: pod {self.launch.id} was left to another worker")

    def close(self) -> Figures:
        """No more; returns what the cluster has told of its pod."""
        self._following.close()
        ran = time.monotonic() - self._asked - (self.start_seconds or 0)
        return self.view.remove(self.watched, ran)

    def _exit(self) -> Exit:
        launch, pod = self.launch, self.watched.pod
        if not status.ended(pod):
            if self.stopped:
                return Exit(code=128 + SIGKILL, killed=True)
            why = f" ({said})" if (said := status.disruption(pod)) else ""
            raise SandboxLost(f"task {launch.task}: pod {launch.id} was deleted while it ran, not by this worker{why}")
        self.failed = True
        ended = status.exit_of(launch, pod)
        if launch.payload is None and (terminated := status.task_container(pod).state.terminated) is not None:
            ended = msgspec.structs.replace(ended, used=shell.figures(terminated.message))
            self.failed = ended.code != 0
        if pod.metadata.deletion_timestamp is not None and (self.killed or not self.stopped) and not ended.killed:
            return msgspec.structs.replace(ended, killed=True, detail="the pod was deleted")
        return ended
