"""Warm sandboxes of a worker: as many of every shape as its tasks ask for.

Each is used for one task and destroyed, as a cold one is. One thread tends them: it sees which are ready or have died,
starts what is wanted and removes what is not.
"""

import logging
import os
import select
import threading
import time
import uuid
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from docker.errors import APIError
from msgspec.structs import replace

from cellwork.errors import CellworkError
from cellwork_worker.launch import Launch, without_task

from .containers import Containers
from .demand import Demand, WarmLimits
from .moved import ImageWatch
from .warm import Warm

logger = logging.getLogger("cellwork.worker")

#: Started at once: more would only slow down the tasks that find none and start their own.
_STARTERS = 2

#: Seconds after a task took one until another is started: a warm run is over by then, and has the processor to itself.
_REPLENISH_AFTER = 0.015

#: Seconds without a new try after a shape's first failure; doubled for each further one, up to the second figure.
_BACKOFF, _MAX_BACKOFF = 1.0, 60.0

#: Of what imports print before the task comes.
_OUTPUT_BYTES = 1 << 16


@dataclass(eq=False)
class _Shape:
    launch: Launch
    demand: Demand
    waiting: list[Warm] = field(default_factory=list)
    starting: int = 0
    failures: int = 0
    not_before: float = 0.0

    @property
    def memory(self) -> int:
        """Bytes that each of them may use."""
        return self.launch.spec.memory or 0

    def failed(self, why: object) -> None:
        self.not_before = time.monotonic() + min(_BACKOFF * 2**self.failures, _MAX_BACKOFF)
        self.failures += 1
        log = logger.warning if self.failures == 1 else logger.debug
        log("image %s: a warm sandbox did not come up, tasks start cold: %s", self.launch.spec.image, why)


class WarmPool:
    """Of one worker on one engine. Safe to use from many threads."""

    def __init__(self, containers: Containers, limits: WarmLimits, labels: dict[str, str]) -> None:
        """`labels`: the worker's."""
        self._containers = containers
        self._limits = limits
        self._labels = labels
        self._lock = threading.Lock()
        #: Told whenever a start is over.
        self._quiet = threading.Condition(self._lock)
        self._shapes: dict[str, _Shape] = {}
        self._by_fd: dict[int, tuple[_Shape, Warm]] = {}
        self._names: set[str] = set()
        self._dropped: deque[Warm] = deque()
        self._handing = threading.Lock()
        self._wake_at = 0.0
        #: Bytes: what the tasks leave.
        self._spare: float = float("inf")
        self._thread: threading.Thread | None = None
        self._images = ImageWatch(containers.engine, self._drop_moved)
        self.hits = self.misses = 0
        self._start_seconds: deque[float] = deque(maxlen=100)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def claim(self, launch: Launch) -> Warm | None:
        """One for this task alone. None: it must start its own. `end` is to be called in either case."""
        if not self._takes(launch):
            return None
        with self._lock:
            shape = self._shapes.get(launch.shape)
            if shape is None:
                shape = self._shapes[launch.shape] = _Shape(without_task(launch), Demand(self._limits))
            shape.demand.begin(time.monotonic())
            found = self._pop(shape) if self._images.current else None
            self.hits += found is not None
            self.misses += found is None
            self._tend_within(_REPLENISH_AFTER)
        return found

    def end(self, launch: Launch) -> None:
        """The task is over."""
        if self._takes(launch):
            with self._lock:
                self._shapes[launch.shape].demand.end()

    def drop_idle(self) -> None:
        """Remove all that wait; new ones are started when a task asks."""
        with self._quiet:
            for shape in self._shapes.values():
                shape.demand.forget()
            self._quiet.wait_for(lambda: not any(shape.starting for shape in self._shapes.values()))
            for shape in self._shapes.values():
                self._trim(shape, 0)
        self._remove_dropped()

    def spare(self, memory: int) -> None:
        """Tasks leave so many bytes of the machine's memory: those that wait must fit in."""
        with self._lock:
            shrunk, self._spare = memory < self._spare, memory
            if self._thread is not None and (self._used() > memory if shrunk else True):
                # Later: the task that asked for the memory may be about to take one of them.
                self._tend_within(_REPLENISH_AFTER)

    def facts(self) -> dict[str, object]:
        """For whoever watches the worker."""
        with self._lock:
            starts = sorted(self._start_seconds)
            ready = Counter(s.launch.spec.image for s in self._shapes.values() for warm in s.waiting if warm.ready)
            return {
                "hits": self.hits,
                "misses": self.misses,
                "waiting": dict(ready),
                "starting": sum(s.starting + len(s.waiting) for s in self._shapes.values()) - ready.total(),
                "start_seconds_p50": round(starts[len(starts) // 2], 3) if starts else None,
            }

    def told(self) -> list[str]:
        """How many wait, by image, for people."""
        with self._lock:
            ready = Counter(s.launch.spec.image for s in self._shapes.values() for warm in s.waiting if warm.ready)
        return [f"{count} of {image}" for image, count in sorted(ready.items())] or ["none"]

    def _takes(self, launch: Launch) -> bool:
        # Those that wait are watched by `epoll`, which knows nothing of TLS.
        usable = self._limits.max > 0 and self._containers.engine.plain
        return bool(launch.shape) and usable and launch.spec.pull != "always"

    def _pop(self, shape: _Shape) -> Warm | None:
        for warm in list(shape.waiting):
            if not warm.ready:
                continue
            if warm.alive():
                self._forget(shape, warm)
                return warm
            self._drop(shape, warm)
        return None

    def _forget(self, shape: _Shape, warm: Warm) -> None:
        shape.waiting.remove(warm)
        self._names.discard(warm.container.name)
        self._by_fd.pop(warm.fd, None)
        self._epoll.unregister(warm.fd)

    def _drop(self, shape: _Shape, warm: Warm) -> None:
        """It is not to be used. Removed once the lock is released: the engine may be slow to take it."""
        self._forget(shape, warm)
        self._dropped.append(warm)

    def _remove_dropped(self) -> None:
        # Whoever comes second goes on only when the remover has them all: a sweep waits for it, and looks then who
        # still uses a holder.
        with self._handing:
            while self._dropped:
                self._discard(self._dropped.popleft())

    def _discard(self, warm: Warm) -> None:
        warm.streams.close()
        self._containers.remove(warm.container)

    def _trim(self, shape: _Shape, keep: int) -> None:
        for warm in shape.waiting[: max(0, len(shape.waiting) - keep)]:
            self._drop(shape, warm)

    def _drop_moved(self, image: str, image_id: str | None) -> None:
        """The name means another image now, or none."""
        with self._lock:
            for shape in self._shapes.values():
                if shape.launch.spec.image == image:
                    for warm in [warm for warm in shape.waiting if warm.image_id != image_id]:
                        self._drop(shape, warm)
            self._tend_within(0)

    def _tend_within(self, seconds: float) -> None:
        """Have the thread look at what is wanted, that much later. Called with the lock held."""
        if self._thread is None:
            self._epoll = select.epoll()
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self._event, select.EPOLLIN)
            self._starters = ThreadPoolExecutor(_STARTERS, thread_name_prefix="docker-warm")
            self._thread = threading.Thread(target=self._tend, name="docker-warm-tend", daemon=True)
            self._thread.start()
        self._wake_at = min(self._wake_at, time.monotonic() + seconds) or time.monotonic() + seconds
        os.eventfd_write(self._event, 1)

    def _tend(self) -> None:
        while True:
            now = time.monotonic()
            # Never longer than a minute, so that a limit that passed unseen is kept late rather than never.
            for fd, _ in self._epoll.poll(min(max(self._wake_at - now, 0) if self._wake_at else 60, 60)):
                if fd == self._event:
                    os.eventfd_read(self._event)
                else:
                    self._arrived(fd)
            now = time.monotonic()
            if not self._wake_at or now >= self._wake_at:
                with self._lock:
                    self._level(now)
            self._remove_dropped()

    def _arrived(self, fd: int) -> None:
        with self._lock:
            shape, warm = self._by_fd.get(fd, (None, None))
            if shape is None or warm is None:
                return  # taken meanwhile
            was_ready = warm.ready
            if warm.read() and warm.printed() <= _OUTPUT_BYTES:
                if warm.ready and not was_ready:
                    shape.failures = 0
                    self._start_seconds.append(time.monotonic() - warm.asked_at)
                return
            self._drop(shape, warm)
            if not was_ready:
                text = b"".join(piece for _, piece in warm.output)[-500:].decode("utf-8", "backslashreplace")
                shape.failed(f"it ended before it was ready; it printed {text!r}")
            self._wake_at = time.monotonic() + _REPLENISH_AFTER

    def _level(self, now: float) -> None:
        """Start and remove until as many wait as are wanted; say when to look again. Called with the lock held."""
        later = []
        self._shed()
        for key, shape in list(self._shapes.items()):
            wanted = shape.demand.wanted(now)
            have = len(shape.waiting) + shape.starting
            if have > wanted:
                self._trim(shape, max(0, wanted - shape.starting))
            if now < shape.not_before:
                later.append(shape.not_before)
            else:
                for _ in range(wanted - have):
                    if not self._fits(shape):
                        break
                    shape.starting += 1
                    self._starters.submit(self._start, shape)
            if now < shape.demand.expires_at:
                later.append(shape.demand.expires_at)
            elif not wanted and not have and not shape.demand.running:
                del self._shapes[key]
        self._wake_at = min(later, default=0.0)

    def _fits(self, shape: _Shape) -> bool:
        """True where the budget has room for one more of `shape`; those of shapes asked for longer ago make room."""

        most = min(self._limits.memory, self._spare)
        older = sorted(
            (s for s in self._shapes.values() if s.waiting and s.demand.asked_at < shape.demand.asked_at),
            key=lambda s: s.demand.asked_at,
        )
        for other in older:
            while other.waiting and self._used() + shape.memory > most:
                self._drop(other, other.waiting[0])
        return self._used() + shape.memory <= most

    def _used(self) -> int:
        return sum(s.memory * (len(s.waiting) + s.starting) for s in self._shapes.values())

    def _shed(self) -> None:
        """Tasks come first: drop as many as do not fit beside them, of the shape that was asked for longest ago."""
        for shape in sorted(self._shapes.values(), key=lambda s: s.demand.asked_at):
            while shape.waiting and self._used() > self._spare:
                self._drop(shape, shape.waiting[0])

    def _start(self, shape: _Shape) -> None:
        like = shape.launch
        name = f"cellwork-warm-{uuid.uuid4().hex}"
        # The name it has now: another may be given to it with the task.
        labels = {**(like.spec.labels or {}), **self._labels, "cellwork.warm": name}
        asked_at = time.monotonic()
        with self._lock:
            self._names.add(name)
        try:
            self._images.watch(like.spec.image or "")
            made = self._containers.start(replace(like, id=name, argv=(*like.argv, "warm"), labels=labels))
            assert made is not None, "a random name is taken"
            container, streams = made
            try:
                streams.write(like.payload or b"")
                image_id = self._containers.engine.client.inspect_container(container.id)["Image"]
                container.image_id = image_id
            except BaseException:
                streams.close()
                self._containers.remove(container)
                raise
        except (CellworkError, APIError, OSError) as error:
            with self._lock:
                self._names.discard(name)
                self._started(shape)
                shape.failed(error)
            return
        self._add(shape, Warm(container, streams, image_id, asked_at))

    def _add(self, shape: _Shape, warm: Warm) -> None:
        with self._lock:
            shape.waiting.append(warm)
            self._by_fd[warm.fd] = shape, warm
            self._epoll.register(warm.fd, select.EPOLLIN | select.EPOLLRDHUP)
            self._started(shape)

    def _started(self, shape: _Shape) -> None:
        """Whether it came up or not: that start is over. What nobody wants any more is then removed."""
        shape.starting -= 1
        self._quiet.notify_all()
        self._tend_within(0)
