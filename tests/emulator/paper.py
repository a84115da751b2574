"""A node of paper: its pods behave as if they ran, and cost next to nothing. For what a worker costs, not a pod."""

import base64
import heapq
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress

from emulator import telling
from emulator.store import Missing, Object, Store, now

#: Seconds, as tried out on Kubernetes 1.36 with one node: until a pod runs, and from its container's end until the API
#: server says so.
START, LAG = 0.6, 1.5


class _Log:
    """One pod's; each has its own condition, so that a line wakes one follower and not all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._over = False

    def end(self, lines: list[bytes]) -> None:
        with self._changed:
            self._lines, self._over = lines, True
            self._changed.notify_all()

    def read(self, follow: bool) -> Iterable[bytes]:
        with self._changed:
            if follow:
                self._changed.wait_for(lambda: self._over)
            lines = list(self._lines)
        yield from lines


class PaperNode:
    """Every pod sleeps `seconds`, then its log has the outcome ``null``, and later its status says Succeeded."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._store: Store | None = None
        self._turn = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._logs: dict[str, _Log] = {}
        self._count = 0
        #: When each pod's body ended, by the clock, by its name.
        self.ended: dict[str, float] = {}

    def serve(self, store: Store) -> None:
        self._store = store
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._act, daemon=True).start()

    def logs(self, pod: Object, follow: bool, tail: int | None) -> Iterable[bytes]:
        """Raises Missing: it has not started."""
        uid = pod["metadata"]["uid"]
        if uid not in self._logs:
            raise Missing
        return self._logs[uid].read(follow)

    def metrics(self, namespace: str) -> list[Object]:
        """Every pod uses the same."""
        assert self._store is not None
        return [telling.used(pod, 0.01, 1 << 20) for pod in self._store.listed("pods", namespace)[0]]

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        with self._turn:
            self._count += 1
            heapq.heappush(self._due, (time.monotonic() + seconds, self._count, act))
            self._turn.notify_all()

    def _act(self) -> None:
        while True:
            with self._turn:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._turn.wait(max(0.001, self._due[0][0] - time.monotonic()) if self._due else None)
                _, _, act = heapq.heappop(self._due)
            with suppress(Missing):
                act()

    def _watch(self) -> None:
        assert self._store is not None
        for type_, pod in self._store.watch("pods", "jobs", 0, lambda: False):
            if type_ == "ADDED":
                self._later(START, lambda pod=pod: self._run(pod))
            elif type_ == "MODIFIED" and "deletionTimestamp" in pod["metadata"]:
                self._later(0.1, lambda pod=pod: self._store.remove("pods", "jobs", pod["metadata"]["name"]))

    def _run(self, pod: Object) -> None:
        assert self._store is not None
        self._logs[pod["metadata"]["uid"]] = _Log()
        telling.pulled(self._store, pod, None)
        self._say(pod, "Running", {"running": {"startedAt": now()}})
        self._later(self._seconds, lambda: self._end(pod))

    def _end(self, pod: Object) -> None:
        assert self._store is not None
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        nonce = _nonce(self._store.get("secrets", "jobs", name))
        frames = ('{"kind": "end", "data": null}', '{"kind": "outcome", "data": {"status": "success", "value": null}}')
        self.ended[name] = time.time()
        self._logs[uid].end([f"\n{nonce} {frame}\n".encode() for frame in frames])
        terminated = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        self._later(LAG, lambda: self._say(pod, "Succeeded", terminated))

    def _say(self, pod: Object, phase: str, state: Object) -> None:
        assert self._store is not None
        container = {"name": "task", "image": "paper", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        self._store.update(
            "pods",
            "jobs",
            pod["metadata"]["name"],
            lambda one: one.update(
                spec={**one["spec"], "nodeName": "paper"}, status={"phase": phase, "containerStatuses": [container]}
            ),
        )


def _nonce(secret: Object) -> str:
    """Of the payload's second part (docs/protocol.md)."""
    data = zlib.decompress(base64.b64decode(secret["data"]["payload"]), 31)
    (first,) = struct.unpack(">Q", data[:8])
    second = data[8 + first :]
    _, head = struct.unpack(">QI", second[:12])
    return str(json.loads(second[12 : 12 + head])["nonce"])
