"""What tasks print, on its way to Redis: one capped stream a task (docs/logs.md).

Slots only append to buffers with a bound; one thread writes. Where Redis is slow or away the buffers fill, the oldest
of what waits is dropped, and the numbers of the lines that follow say how much that was.
"""

import logging
import threading
from collections import deque
from typing import Any

import redis
from celery.backends.redis import RedisBackend
from redis.backoff import NoBackoff
from redis.retry import Retry

from cellwork.logs import key
from cellwork.settings import Settings
from cellwork_worker.logstream import Batch, Entry, Gap, LogStream

logger = logging.getLogger("cellwork.worker")

#: Bytes that wait for the writer: of one sandbox, and of all together.
_SANDBOX_BYTES, _TOTAL_BYTES = 512 << 10, 4 << 20

#: What a piece of output costs beside its bytes.
_PIECE_BYTES = 128

#: Seconds that the writer waits for more before it writes, unless a buffer is half full.
_LINGER = 0.02

#: Seconds that Redis may take for one answer, and how often a batch is tried. Seconds before the second try; doubled
#: for each further one.
_ANSWER_TIMEOUT, _TRIES, _BACKOFF = 5.0, 4, 0.25

#: Seconds that a worker that shuts down waits for the last lines.
_CLOSE_TIMEOUT = 10.0


class SandboxLog:
    """The output of one sandbox. What is here is the slots'; what `LogStream` has is the writer's."""

    def __init__(self, logs: "Logs | None", task_id: str, stream: LogStream) -> None:
        """`logs`: None: nothing is kept."""
        self._logs = logs
        self.task_id = task_id
        self.stream = stream
        self.pieces: deque[tuple[int, bytes]] = deque()
        self.size = 0
        #: By stream: what was dropped, all of it older than the pieces.
        self.gaps: dict[int, Gap] = {}
        self.printed = False
        self.closed = False
        #: The task's end: True: it is over; False: it will be tried again. None: neither yet.
        self.final: bool | None = None

    def write(self, stream: int, data: bytes) -> None:
        """Take what was printed. Never blocks on Redis."""
        if self._logs is not None:
            self._logs.put(self, stream, data)

    def close(self) -> None:
        """Nothing more comes."""
        if self._logs is not None:
            self._logs.closed(self)


class Logs:
    """All sandboxes' output; one object for all slots of a worker."""

    def __init__(self, client: "redis.Redis | None", settings: Settings) -> None:
        """`client`: None: nothing is kept."""
        self._client = client
        self._settings = settings
        self._changed = threading.Condition()
        self._dirty: dict[SandboxLog, None] = {}
        self._last: dict[str, SandboxLog] = {}
        self._size = 0
        self._urgent = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def open(self, task_id: str, sandbox: str, attempt: int, most: int | None = None) -> SandboxLog:
        """The log of a sandbox. Costs nothing until something is printed.

        Args:
            task_id, sandbox: whose.
            attempt: Celery's count of retries.
            most: bytes that are kept; None: the setting's.
        """
        limits = (most or self._settings.log_stream_bytes, self._settings.log_stream_entries)
        return SandboxLog(None if self._client is None else self, task_id, LogStream(sandbox, attempt, *limits))

    def put(self, log: SandboxLog, stream: int, data: bytes) -> None:
        """Buffer output of `log`. Where there is no room, its oldest is dropped and counted: the newest says most."""
        with self._changed:
            self._add(log, len(data) + _PIECE_BYTES)
            log.pieces.append((stream, data))
            while log.pieces and (log.size > _SANDBOX_BYTES or self._size > _TOTAL_BYTES):
                self._drop(log)
            log.printed = True
            self._last[log.task_id] = log
            self._mark(log, urgent=log.size * 2 > _SANDBOX_BYTES or self._size * 2 > _TOTAL_BYTES)

    def _add(self, log: SandboxLog, size: int) -> None:
        log.size += size
        self._size += size

    def _drop(self, log: SandboxLog) -> None:
        stream, data = log.pieces.popleft()
        self._add(log, -len(data) - _PIECE_BYTES)
        gap = log.gaps.get(stream, Gap())
        log.gaps[stream] = Gap(gap.lines + data.count(b"\n"), gap.size + len(data), not data.endswith(b"\n"))

    def closed(self, log: SandboxLog) -> None:
        """Nothing more comes from this sandbox."""
        with self._changed:
            log.closed = True
            if log.printed:
                self._mark(log)

    def end(self, task_id: str, *, final: bool) -> None:
        """The task's run is over: tell whoever follows, if anything was printed. `final`: it is not tried again."""
        with self._changed:
            if (log := self._last.pop(task_id, None)) is not None:
                log.final = final
                self._mark(log)

    def close(self) -> None:
        """Write what is left, for a bounded time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)
            if self._thread.is_alive():
                logger.error("the last output of tasks did not reach Redis within %.0f s", _CLOSE_TIMEOUT)

    def _mark(self, log: SandboxLog, *, urgent: bool = False) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
            self._thread.start()
        wake = not self._dirty or (urgent and not self._urgent)
        self._dirty[log] = None
        self._urgent |= urgent
        if wake:
            self._changed.notify()

    def _run(self) -> None:
        """The writer's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closing)
                self._changed.wait_for(lambda: self._urgent or self._closing, _LINGER)
                batches = [self._take(log) for log in self._dirty]
                self._dirty.clear()
                self._size, self._urgent = 0, False
            if not batches:
                return
            self._write(batches)

    def _take(self, log: SandboxLog) -> tuple[SandboxLog, Batch]:
        batch = Batch(pieces=log.pieces, gaps=log.gaps, closed=log.closed, final=log.final)
        log.pieces, log.gaps, log.size = deque(), {}, 0
        return log, batch

    def _write(self, batches: list[tuple[SandboxLog, Batch]]) -> None:
        """Write with a bounded number of tries. A line that is written twice is read once, by its number."""
        entries = [(log, log.stream.entries(batch)) for log, batch in batches]
        pause = _BACKOFF
        for left in reversed(range(_TRIES)):
            try:
                self._send(entries)
            except redis.RedisError as error:
                if not left or self._closing:
                    logger.error("Redis takes no output of tasks: %s; %d of them lose some", error, len(batches))
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                pause *= 2
            else:
                return

    def _send(self, entries: list[tuple[SandboxLog, list[Entry]]]) -> None:
        assert self._client is not None
        commands = self._client.pipeline(transaction=False)
        new: list[SandboxLog] = []
        for log, found in entries:
            if not found:
                continue
            name = key(self._settings.installation, log.task_id)
            for entry in found:
                fields: dict[Any, Any] = entry.fields  # redis-py's type does not take one of str
                commands.xadd(name, fields, maxlen=entry.keep, approximate=False)
            commands.expire(name, self._settings.log_stream_ttl)
            if log.stream.is_new:
                new.append(log)
        for log in new:
            commands.memory_usage(key(self._settings.installation, log.task_id), samples=0)
        sizes = commands.execute()[-len(new) :] if commands else []
        for log, size in zip(new, sizes, strict=False):
            keep = log.stream.measured(size or 0)
            self._client.xtrim(key(self._settings.installation, log.task_id), maxlen=keep, approximate=False)


def client(app: Any) -> "redis.Redis | None":
    """A connection of the logs' own to the result backend, which answers soon or not at all. None: it is no Redis."""
    if not isinstance(app.backend, RedisBackend):
        logger.warning("the result backend is not Redis: what tasks print is in this worker's log only")
        return None
    backend: Any = app.backend
    options = {
        "socket_timeout": _ANSWER_TIMEOUT,
        "socket_connect_timeout": _ANSWER_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),  # tries are counted here
    }
    found: redis.Redis = backend._create_client(**{**backend.connparams, **options})
    return found
