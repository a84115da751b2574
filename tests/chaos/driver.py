"""Keeps tasks flowing while things go wrong, and judges afterwards: nothing lost, nothing run twice, nothing left."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from celery import Celery, chain, chord
from celery.result import AsyncResult, GroupResult
from docker.errors import APIError

from cellwork import configure

from .cluster import PODS, Cluster
from .faults import EXPECTED, FAULTS

#: Seconds.
VISIBILITY = 3.0
TRAFFIC = 25.0
SETTLE = 120.0

READY = {b'"SUCCESS"', b'"FAILURE"'}


class Figures(msgspec.Struct, kw_only=True):
    """What one seed gave."""

    seed: int
    tasks: int
    faults: dict[str, int]
    #: Tasks without an outcome, or with one that is no success.
    lost: list[str]
    #: Tasks whose body began more often than their sandboxes were destroyed, and once more.
    doubled: dict[str, int]
    #: What was left on the engine and in Redis.
    left: list[str]
    #: Workers that ended though no fault had ended them, each with the last line of its log.
    died: list[str]
    #: Seconds from the death or the freezing of a worker until another one had, or it had itself ended, its tasks.
    #: Those in which no worker could have had them do not count: there is only one for pods.
    recovery: list[float]
    seconds: float

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.left or self.died)


class Run:
    """One seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self._numbers = random.Random(seed + 1)
        self.cluster = Cluster(folder, f"chaos-{uuid.uuid4().hex[:12]}", VISIBILITY)
        self.client = self.cluster.client()
        #: Held while the producer sends: a canvas is many messages, and sending is not what is tested here.
        self.sending = threading.Lock()
        self.destroyed: list[str] = []
        self.ids: list[str] = []
        self._faults: Counter[str] = Counter()
        self._recovery: list[float] = []
        self._watchers: list[threading.Thread] = []
        self._over = threading.Event()
        self._app = configure(Celery("chaos", set_as_current=False), installation=self.cluster.installation)
        self._app.conf.update(
            broker_url=f"{self.cluster.url}/0",
            result_backend=f"{self.cluster.url}/1",
            broker_transport_options={**self._app.conf.broker_transport_options, "visibility_timeout": VISIBILITY},
        )

        # Sending must not wait for a subscription to results that nobody here reads.
        self._app.backend.on_task_call = lambda producer, task_id: None
        # Nor must the garbage collector, while Redis restarts.
        self._app.backend.on_result_fulfilled = lambda result: None

    def run(self) -> Figures:
        began = time.monotonic()
        try:
            self.cluster.start()
            tormentor = threading.Thread(target=self._torment)
            tormentor.start()
            self._send()
            self._over.set()
            tormentor.join()
            lost = self._settle()
        finally:
            died = self.cluster.ended()
            if not died:
                self._wait(self.cluster.ready, 30)
            left = self._left()
            self.cluster.close()
        for watcher in self._watchers:
            watcher.join()
        self._wait(lambda: not self.cluster.pods(), 20)
        left += [one.name or "" for one in self.sandboxes() if not self.cluster.own.cannot_remove(one)]
        left += self.cluster.pods()
        self.cluster.end_api()
        starts = self._starts()
        allowed = Counter(self.destroyed)
        return Figures(
            seed=self.seed,
            tasks=len(self.ids),
            faults=dict(self._faults),
            lost=lost,
            doubled={task: n for task, n in starts.items() if n > 1 + allowed[task]},
            left=left,
            died=died,
            recovery=sorted(self._recovery),
            seconds=time.monotonic() - began,
        )

    def sandboxes(self) -> list[Any]:
        labels = {"label": f"cellwork.installation={self.cluster.installation}"}
        return list(self.cluster.own.client.containers.list(all=True, filters=labels, ignore_removed=True))

    def begun(self) -> list[str]:
        """Tasks of the Docker workers that may have begun, and have no outcome."""
        pods = self._boot(PODS)
        keys: Any = list(self.client.scan_iter(match=f"cellwork:{self.cluster.installation}:token:*", count=1000))
        owners: Any = {key: self.client.hget(key, "owner") for key in keys}
        held = [
            key.decode().rpartition(":")[2] for key, owner in owners.items() if owner and not owner.startswith(pods)
        ]
        return [attempt.removeprefix("cellwork-")[: len(str(uuid.uuid4()))] for attempt in held]

    @contextmanager
    def watched(self, worker: str) -> Iterator[None]:
        """Something happens to this worker: measure how long until what it runs goes on."""
        held = self._held_by(worker)
        yield
        watcher = threading.Thread(target=self._watch, args=(worker, held))
        watcher.start()
        self._watchers.append(watcher)

    def _task(self, seconds: float) -> Any:
        """A third of them are pods: about what the one worker of these can take."""
        options: dict[str, Any] = {"queue": "chaos", "volumes": [f"{self.cluster.ledger}:/ledger"]}
        if self._numbers.random() < 1 / 3:
            options = {"queue": PODS, "volumes": ["ledger:/ledger"], "executor": "kubernetes"}
        return self._app.signature("shop.tasks.entered", (seconds,), immutable=True, memory="64m", **options)

    def _send(self) -> None:
        """Traffic, at about what two workers can take."""
        end = time.monotonic() + TRAFFIC
        numbers = self._numbers
        while time.monotonic() < end:
            kind = numbers.choices(("short", "long", "chain", "chord"), (8, 2, 1, 1))[0]
            with self.sending:
                result = self._canvas(kind).apply_async()
            while result is not None:
                members = result.results if isinstance(result, GroupResult) else [result]
                self.ids += [member.id for member in members if isinstance(member, AsyncResult)]
                result = result.parent
            self._over.wait(numbers.uniform(0.2, 1.0))

    def _canvas(self, kind: str) -> Any:
        if kind == "long":
            return self._task(1.8 * VISIBILITY)
        if kind == "chain":
            return chain(self._task(0.1), self._task(0.3), self._task(0.1), app=self._app)
        if kind == "chord":
            return chord([self._task(0.1), self._task(0.3), self._task(0.2)], self._task(0.1), app=self._app)
        return self._task(0.1)

    def _torment(self) -> None:
        while not self._over.wait(self.random.uniform(0.5, 3.0)):
            fault = self.random.choice(FAULTS)
            self._faults[fault.__name__] += 1
            try:
                print(f"  {fault(self)}", flush=True)
            except (*EXPECTED, APIError) as error:
                print(f"  {fault.__name__}: {error}", flush=True)

    def _settle(self) -> list[str]:
        """Wait for every outcome; those that do not come, or are no success."""
        backend, deadline = self.cluster.client(1), time.monotonic() + SETTLE
        waiting = list(self.ids)
        states: dict[str, str] = {}
        said: dict[str, str] = {}
        while waiting and time.monotonic() < deadline:
            for task in list(waiting):
                text: Any = backend.get(f"celery-task-meta-{task}")
                meta = msgspec.json.decode(text) if text else {"status": "PENDING"}
                states[task] = meta["status"]
                if states[task] == "FAILURE":
                    said[task] = f" {meta['result']} {meta.get('traceback')}"
                if states[task] in ("SUCCESS", "FAILURE", "REVOKED"):
                    waiting.remove(task)
            self._never.wait(0.2)
        return [f"{task}: {state}{said.get(task, '')}" for task, state in states.items() if state != "SUCCESS"]

    _never = threading.Event()

    def _left(self) -> list[str]:
        """Messages that are still there a while after the last outcome."""
        self._wait(lambda: not self._messages(), 4 * VISIBILITY)
        return self._messages()

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self._never.wait(0.1)

    def _messages(self) -> list[str]:
        unacked: Any = self.client.hlen("unacked")
        queued: Any = sum(int(self.client.llen(queue)) for queue in ("chaos", PODS))  # type: ignore[arg-type]
        return [f"{unacked} unacknowledged and {queued} queued messages"] if unacked or queued else []

    def _starts(self) -> Counter[str]:
        file = self.cluster.ledger / "ledger"
        lines = file.read_text().splitlines() if file.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith("start "))

    def _held_by(self, worker: str) -> dict[str, bytes]:
        """Tokens whose owner is this worker's process."""
        prefix = f"cellwork:{self.cluster.installation}"
        try:
            boot = self._boot(worker)
            keys: Any = list(self.client.scan_iter(match=f"{prefix}:token:*", count=1000))
            owners: Any = [self.client.hget(key, "owner") for key in keys]
        except EXPECTED:
            return {}
        return {key: owner for key, owner in zip(keys, owners, strict=True) if owner and owner.startswith(boot)}

    def _boot(self, worker: str) -> bytes:
        beat: Any = self.client.get(f"cellwork:{self.cluster.installation}:worker:{worker}@chaos")
        return msgspec.json.decode(beat)["boot"].encode() if beat else b"?"

    def _watch(self, worker: str, held: dict[str, bytes]) -> None:
        seconds, last = 0.0, time.monotonic()
        deadline = last + SETTLE
        while held and time.monotonic() < deadline:
            served = self.cluster.served_beside(worker)
            try:
                taken = [key for key, owner in held.items() if self.client.hget(key, "owner") != owner]
            except EXPECTED:
                taken, served = [], False  # Redis is away, and nobody can take anything
            now = time.monotonic()
            seconds, last = seconds + (now - last if served else 0.0), now
            self._recovery += [seconds] * len(taken)
            for key in taken:
                del held[key]
            self._never.wait(0.05)
