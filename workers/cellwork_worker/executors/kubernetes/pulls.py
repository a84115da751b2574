"""How long the images of a namespace's pods took to pull, by what their kubelets tell in events."""

import re

import msgspec

from .api import Api, Selection
from .feed import Feed
from .objects import Event, EventList, WatchEvent
from .status import CONTAINER

#: ``Successfully pulled image "x" in 1.2s (3.4s including waiting). Image size: 5 bytes.``, of any release: older ones
#: say one time only. Where the image was there, the event says other words.
_PULLED = re.compile(r'Successfully pulled image ".*" in (\S+?)(?: \((\S+) including waiting\).*)?', re.DOTALL)

#: As Go writes a duration: ``1m2.5s``, ``850ms``.
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|µs|us|ns)")
_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


class Pulls(Feed):
    """Of one namespace. What is not known in time stays unknown: no task waits for it."""

    def __init__(self, api: Api, namespace: str) -> None:
        # Events have no labels of their own: those of other pods come, too, one a pod.
        super().__init__(
            api, Selection("events", namespace, {"fieldSelector": "involvedObject.kind=Pod,reason=Pulled"})
        )
        #: Seconds by the pod's uid, by its name: an earlier pod of the same name is another.
        self._seconds: dict[str, dict[str, float]] = {}

    def add(self, name: str) -> None:
        """The pod of that name, which need not exist yet."""
        with self._lock:
            self._seconds[name] = {}
            self._want()

    def remove(self, name: str, uid: str) -> float | None:
        """No more; returns the seconds. None: its image was there, or nobody has said that it was pulled."""
        with self._lock:
            found = self._seconds.pop(name, {})
            if not self._seconds:
                self._rest()
        return found.get(uid)

    def _list(self) -> str:
        # Events are kept for an hour, and those before its pods are not asked for: the list is there for its version.
        return self._api.listed(self._selection, EventList, limit=1).metadata.resource_version

    def _take(self, event: WatchEvent) -> str:
        told = msgspec.json.decode(event.object, type=Event)
        about = told.involved_object
        if event.type in ("ADDED", "MODIFIED") and about.field_path == f"spec.containers{{{CONTAINER}}}":
            took = seconds(told.message)
            with self._lock:
                if took is not None and about.name in self._seconds:
                    self._seconds[about.name][about.uid] = took
        return told.metadata.resource_version


def seconds(message: str) -> float | None:
    """That a pull took, its turn in the kubelet's queue included. None: the message does not tell of one."""
    if (said := _PULLED.fullmatch(message)) is None:
        return None
    pulling, waiting = said.groups()
    parts = _PART.findall(waiting or pulling)
    return sum(float(number) * _UNIT[unit] for number, unit in parts) if parts else None
