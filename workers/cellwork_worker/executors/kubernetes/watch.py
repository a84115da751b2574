"""The pods of a namespace, as their tasks wait for them."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from . import status
from .api import Api, Selection
from .feed import Feed
from .objects import Pod, PodList, WatchEvent

logger = logging.getLogger("cellwork.worker")

#: Seconds past its grace after which a pod that somebody deleted, and that its node does not report on, is given up.
_GONE_AFTER = 30.0


class Watched:
    """What is known of one pod: the one of its name that the API server has answered with.

    An earlier one of that name may still be ending, and the watch may be ahead of that answer or behind it. So what it
    tells before the answer is put aside, and what it tells of another pod never counts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._pod: Pod | None = None
        #: By uid, before it is known which one it is: as seen last, and those that are gone.
        self._aside: dict[str, Pod] = {}
        self._gone: set[str] = set()
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
    def known(self) -> bool:
        """The API server has answered that there is such a one."""
        return self._pod is not None

    @property
    def over(self) -> bool:
        """It has ended, or is gone."""
        return self.deleted or (self._pod is not None and status.ended(self._pod))

    @property
    def exists(self) -> bool:
        """As far as is known; one whose creation was not answered counts, too."""
        return not self.deleted if self.known else bool(self._aside.keys() - self._gone)

    def answered(self, pod: Pod) -> None:
        """This one it is; it looked like that when the API server was asked."""
        uid = pod.metadata.uid
        with self._changed:
            self._pod, self.deleted = self._aside.get(uid, pod), uid in self._gone
            self._aside.clear()
            self._gone.clear()
            self._changed.notify_all()
        if self.over:
            self.on_end()

    def anew(self) -> None:
        """From here on it is another one, which the API server has not answered with yet."""
        with self._changed:
            self._pod, self.deleted = None, False

    def see(self, pod: Pod) -> None:
        """The watch says that one of its name looks like this now."""
        with self._changed:
            if not self.known:
                self._aside[pod.metadata.uid] = pod
                return
            if pod.metadata.uid != self.pod.metadata.uid:
                return
            was_over, self._pod = self.over, pod
            self._changed.notify_all()
        if self.over and not was_over:
            self.on_end()

    def gone(self, uid: str) -> None:
        """The API server does not have that one any more."""
        with self._changed:
            if not self.known:
                self._gone.add(uid)
                return
            if uid != self.pod.metadata.uid:
                return
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


class Watch(Feed):
    """Of one namespace."""

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        super().__init__(api, Selection("pods", namespace, {"labelSelector": selector}))
        self._watched: dict[str, Watched] = {}

    def add(self, name: str) -> Watched:
        """Watch the pod of that name, which need not exist yet."""
        with self._lock:
            self._watched[name] = watched = Watched(name)
            self._want()
        return watched

    def remove(self, watched: Watched) -> None:
        """No more."""
        with self._lock:
            if self._watched.get(watched.name) is watched:
                del self._watched[watched.name]
            if not self._watched:
                self._rest()

    def _list(self) -> str:
        with self._lock:
            # Later ones may have been created after the list was made, and be missing from it for that.
            known = [(one, one.pod.metadata.uid) for one in self._watched.values() if one.known]
        found = self._api.listed(self._selection, PodList)
        pods = {pod.metadata.name: pod for pod in found.items}
        for name, pod in pods.items():
            self._see(name, pod)
        for watched, uid in known:
            # Asked for by name, which no cache answers, before a task is told that its pod is gone.
            if watched.name not in pods and self._api.pod(self._selection.namespace, watched.name) is None:
                watched.gone(uid)
        return found.metadata.resource_version

    def _take(self, event: WatchEvent) -> str:
        pod = msgspec.json.decode(event.object, type=Pod)
        if event.type == "DELETED":
            if (watched := self._watched.get(pod.metadata.name)) is not None:
                # The last state that it was in comes with it.
                watched.see(pod)
                watched.gone(pod.metadata.uid)
        elif event.type in ("ADDED", "MODIFIED"):
            self._see(pod.metadata.name, pod)
        self._give_up_overdue()
        return pod.metadata.resource_version

    def _see(self, name: str, pod: Pod) -> None:
        if (watched := self._watched.get(name)) is not None:
            watched.see(pod)

    def _give_up_overdue(self) -> None:
        now = datetime.now(UTC)
        for watched in list(self._watched.values()):
            if watched.overdue(now):
                logger.warning("pod %s was deleted, and its node does not say that it has ended", watched.name)
                watched.gone(watched.pod.metadata.uid)
