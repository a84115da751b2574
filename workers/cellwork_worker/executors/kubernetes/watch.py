"""One list and one watch of a namespace for all of its pods, however many tasks wait for theirs."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from cellwork.errors import EngineUnavailable

from . import refusals, status
from .api import Api, Refused
from .objects import Pod, WatchEvent

logger = logging.getLogger("cellwork.worker")

#: Seconds between two tries to reach an API server that does not answer; doubled from the first to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0

#: Seconds past its grace after which a pod that somebody deleted, and that its node does not report on, is given up.
_GONE_AFTER = 30.0

#: The resource version is too old to go on from (API concepts, "410 Gone responses").
_EXPIRED = 410


class Watched:
    """What is known of one pod."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._pod: Pod | None = None
        #: The API server has been seen to have it.
        self.exists = False
        self.deleted = False
        #: Nobody is to wait for it any more.
        self.let_go = False
        #: Called once, in the watch's thread, when it has ended or is gone.
        self.on_end: Callable[[], None] = lambda: None

    @property
    def pod(self) -> Pod:
        """As last seen."""
        return self._pod or Pod()

    @property
    def over(self) -> bool:
        """It has ended, or is gone."""
        return self.deleted or (self._pod is not None and status.ended(self._pod))

    def see(self, pod: Pod) -> None:
        """It looks like this now."""
        with self._changed:
            was_over, self._pod, self.exists = self.over, pod, True
            self._changed.notify_all()
        if self.over and not was_over:
            self.on_end()

    def gone(self) -> None:
        """The API server does not have it any more."""
        with self._changed:
            was_over, self.deleted = self.over, True
            self._changed.notify_all()
        if not was_over:
            self.on_end()

    def release(self) -> None:
        """Whoever waits for it waits no longer."""
        with self._changed:
            self.let_go = True
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until `condition` holds, it is over, or let go of. False: none of that within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: condition() or self.over or self.let_go, seconds)

    def overdue(self, now: datetime) -> bool:
        """It was deleted, should be gone by now, and its node does not say that it is."""
        deleted = self.pod.metadata.deletion_timestamp
        return deleted is not None and not self.over and (now - deleted).total_seconds() > _GONE_AFTER


class Watch:
    """Of one namespace. Its thread lives as long as the process; it starts with the first pod."""

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        #: From where it goes on when a watch ends, however that comes; empty: it begins anew, with a list.
        self._version = ""
        #: Seconds before the next try to reach an API server that did not answer.
        self._pause = _FIRST_PAUSE

    def add(self, name: str) -> Watched:
        """Watch the pod of that name, which need not exist yet."""
        with self._lock:
            self._watched[name] = watched = Watched(name)
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"pods-{self._namespace}", daemon=True)
                self._thread.start()
        return watched

    def remove(self, watched: Watched) -> None:
        """No more."""
        with self._lock:
            if self._watched.get(watched.name) is watched:
                del self._watched[watched.name]
            if not self._watched:
                self._wake.clear()

    def _run(self) -> None:
        while True:
            # Without pods of its own a worker does not keep the API server busy.
            if not self._wake.is_set():
                self._version = ""
                self._wake.wait()
            try:
                self._version = self._version or self._list()
                self._follow()
            except Refused as refused:
                if refused.status != _EXPIRED:
                    logger.error("%s", refusals.error(self._doing(), refused.status, refused.said))
                    self._wait()
                self._version = ""
            except EngineUnavailable as error:
                logger.warning("%s", error)
                self._wait()

    def _wait(self) -> None:
        threading.Event().wait(self._pause)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _list(self) -> str:
        """Look at all pods; returns from where a watch goes on."""
        with self._lock:
            # Later ones may have been created after the list was made, and be missing from it for that.
            known = [watched for watched in self._watched.values() if watched.exists]
        found = self._api.pods(self._namespace, self._selector)
        pods = {pod.metadata.name: pod for pod in found.items}
        for name, pod in pods.items():
            self._see(name, pod)
        for watched in known:
            # Asked for by name, which no cache answers, before a task is told that its pod is gone.
            if watched.name not in pods and self._api.pod(self._namespace, watched.name) is None:
                watched.gone()
        return found.metadata.resource_version

    def _follow(self) -> None:
        for event in self._api.watch(self._namespace, self._selector, self._version):
            self._version, self._pause = self._take(event) or self._version, _FIRST_PAUSE
            if not self._wake.is_set():
                break
            self._give_up_overdue()

    def _take(self, event: WatchEvent) -> str:
        if event.type == "ERROR":
            said = refusals.refusal(bytes(event.object))
            raise Refused(said.code, said)
        pod = msgspec.json.decode(event.object, type=Pod)
        if event.type == "DELETED":
            if (watched := self._watched.get(pod.metadata.name)) is not None and self._same(watched, pod):
                # The last state that it was in comes with it.
                watched.see(pod)
                watched.gone()
        elif event.type in ("ADDED", "MODIFIED"):
            self._see(pod.metadata.name, pod)
        return pod.metadata.resource_version

    def _see(self, name: str, pod: Pod) -> None:
        if (watched := self._watched.get(name)) is not None:
            watched.see(pod)

    def _same(self, watched: Watched, pod: Pod) -> bool:
        """Not an earlier one of the same name."""
        return not watched.exists or watched.pod.metadata.uid == pod.metadata.uid

    def _give_up_overdue(self) -> None:
        now = datetime.now(UTC)
        for watched in list(self._watched.values()):
            if watched.overdue(now):
                logger.warning("pod %s was deleted, and its node does not say that it has ended", watched.name)
                watched.gone()

    def _doing(self) -> str:
        return f"to watch the pods of namespace {self._namespace}"
