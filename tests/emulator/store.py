"""Objects with resource versions, and what happened to them, as etcd and the API server keep them."""

import copy
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

Object = dict[str, Any]

#: Of the changes that a watch can go on from; a real API server's depends on its age.
HISTORY = 100_000


class Conflict(Exception):
    """There is one of that name."""


class Missing(Exception):
    """There is none of that name."""


class Expired(Exception):
    """The resource version is too old."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._version = 0
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: deque[tuple[int, str, str, Object]] = deque(maxlen=HISTORY)
        self._oldest = 0

    def create(self, kind: str, namespace: str, given: Object) -> Object:
        name = given["metadata"]["name"]
        with self.changed:
            if (kind, namespace, name) in self._objects:
                raise Conflict
            made = copy.deepcopy(given)
            made["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            self._objects[kind, namespace, name] = made
            self._record("ADDED", kind, made)
            return copy.deepcopy(made)

    def get(self, kind: str, namespace: str, name: str) -> Object:
        with self.changed:
            if (found := self._objects.get((kind, namespace, name))) is None:
                raise Missing
            return copy.deepcopy(found)

    def listed(self, kind: str, namespace: str) -> tuple[list[Object], int]:
        with self.changed:
            found = [one for (k, n, _), one in self._objects.items() if (k, n) == (kind, namespace)]
            return copy.deepcopy(found), self._version

    def update(self, kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        with self.changed:
            if (found := self._objects.get((kind, namespace, name))) is None:
                raise Missing
            changed = copy.deepcopy(found)
            change(changed)
            self._objects[kind, namespace, name] = changed
            self._record("MODIFIED", kind, changed)
            return copy.deepcopy(changed)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Remove it, and what it owns."""
        with self.changed:
            if (gone := self._objects.pop((kind, namespace, name), None)) is None:
                return
            self._record("DELETED", kind, gone)
            for key, one in list(self._objects.items()):
                owners = {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
                if gone["metadata"]["uid"] in owners:
                    self.remove(*key)

    def compact(self) -> None:
        """Forget what happened: every watch that wants to go on from before is told 410."""
        with self.changed:
            self._version += 1
            self.forget()

    def forget(self) -> int:
        """The same, but for one that wants to go on from just now: returns that version."""
        with self.changed:
            self._history.clear()
            self._oldest = self._version
            self.changed.notify_all()
            return self._version

    def watch(self, kind: str, namespace: str, version: int, until: Callable[[], bool]) -> Iterator[tuple[str, Object]]:
        """(type, object) after `version`, in order; a BOOKMARK after a silent second.

        Raises:
            Expired
        """
        while not until():
            with self.changed:
                if version < self._oldest:
                    raise Expired
                fresh = self._since(version)
                if not fresh:
                    self.changed.wait(1.0)
            if not fresh:
                yield "BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self._version)}}
            for at, type_, of, what in fresh:
                version = at
                if of == kind and what["metadata"]["namespace"] == namespace:
                    yield type_, what

    def wait(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Wait for a change that makes it true."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not condition():
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self.changed.wait(left)
        return True

    def _since(self, version: int) -> list[tuple[int, str, str, Object]]:
        return list(takewhile(lambda event: event[0] > version, reversed(self._history)))[::-1]

    def _record(self, type_: str, kind: str, what: Object) -> None:
        self._version += 1
        what["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, type_, kind, copy.deepcopy(what)))
        self.changed.notify_all()
