"""``cellwork.logs``: what a task printed, or prints now, read from its Redis stream (docs/logs.md)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from celery import Celery, current_app

from . import settings
from .errors import LogsUnavailable

#: Milliseconds that Redis holds a read that finds nothing, before the task's state is looked at.
_BLOCK_MS = 1000

#: Seconds that the last lines may take after the result.
_GRACE = 1.0

_COUNT = 64


class LogLine(msgspec.Struct, frozen=True):
    """One line. What a task prints is hostile: `cellwork.printable.printable` makes it safe for a terminal."""

    #: When Redis got it; aware, by Redis' clock.
    time: datetime
    #: ``cellwork``: not the task's, but about it, such as how much was dropped.
    stream: Literal["stdout", "stderr", "cellwork"]
    #: Without its line feed. Bytes that are not UTF-8 are escaped as in ``\\xff``.
    text: str
    #: Which run of the task: 0, and one more for each retry.
    attempt: int


def logs(
    task_id: str, app: Celery | None = None, follow: bool = False, since: datetime | None = None
) -> Iterator[LogLine]:
    """The lines that a task has printed, standard output and error in the order in which they came.

    Args:
        task_id: Celery's id.
        app: the application; default: Celery's current one.
        follow: go on with what it prints, until its last retry has ended. A task that was never sent is waited for.
        since: nothing before; aware.

    Raises:
        LogsUnavailable: the result backend is not Redis, or does not answer.
    """
    app = app or current_app._get_current_object()  # type: ignore[attr-defined]
    return _lines(LogReader(app, task_id, since), follow)


def key(installation: str, task_id: str) -> str:
    """The Redis key of a task's output."""
    return f"cellwork:{installation}:log:{task_id}"


class LogReader:
    """The same lines step by step, for readers who cannot wait in a thread."""

    def __init__(self, app: Celery, task_id: str, since: datetime | None = None) -> None:
        """See `logs`.

        Raises:
            LogsUnavailable: the result backend is not Redis.
        """
        from celery.backends.redis import RedisBackend

        backend: Any = app.backend
        if not isinstance(backend, RedisBackend):
            raise LogsUnavailable(
                f"what tasks print is kept in the result backend, and that is {type(backend).__name__}, not Redis; set "
                f"result_backend=redis://…, or read the worker's own log"
            )
        self._app = app
        self._task_id = task_id
        self._key = key(settings.load(app).installation, task_id)
        self._last = b"0-0" if since is None else f"{max(0, int(since.timestamp() * 1000) - 1)}-{2**64 - 1}".encode()
        self._entries = _Reader(from_start=since is None)
        #: Nothing more comes.
        self.over = False
        #: The last step found something: there may be more already.
        self.found = False
        #: Seconds in which the last lines may still come; None: the task has not ended, as far as is known.
        self.left: float | None = None

    def read(self, block: int | None = None) -> list[LogLine]:
        """What has come since the last step, or some of it. `block`: milliseconds to wait for something; None: none.

        Raises:
            LogsUnavailable: Redis does not answer.
        """
        import redis

        # Of this thread: Celery keeps one backend for each.
        backend: Any = self._app.backend
        try:
            answer = backend.client.xread({self._key: self._last}, count=_COUNT, block=block)
            self.left = _left(self._app, self._task_id) if not answer else None
        except redis.RedisError as error:
            raise LogsUnavailable(
                f"cannot read the output of task {self._task_id}: Redis says: {str(error).rstrip('.')}. Start it, or "
                f"correct its URL (result_backend)"
            ) from error
        self.found = bool(answer)
        lines: list[LogLine] = []
        for entry, fields in answer[0][1] if answer else ():
            self._last = entry
            lines += self._entries.read(int(entry.partition(b"-")[0]), fields)
        self.over = self._entries.ended or (self.left is not None and self.left <= 0)
        return lines


def _lines(reader: LogReader, follow: bool) -> Iterator[LogLine]:
    block = None
    while not reader.over:
        yield from reader.read(block)
        if reader.found:
            block = None
        elif reader.left is not None:
            block = max(1, int(reader.left * 1000))
        elif follow:
            block = _BLOCK_MS
        else:
            return


def _left(app: Celery, task_id: str) -> float | None:
    """Seconds in which the last lines may still come. None: the task has not ended, as far as is known."""
    result = app.AsyncResult(task_id)
    if not result.ready():
        return None
    done = result.date_done
    if not isinstance(done, datetime):
        return 0.0
    past = (datetime.now(UTC) - (done if done.tzinfo else done.replace(tzinfo=UTC))).total_seconds()
    # Clocks differ: a result from the future is a fresh one.
    return _GRACE - max(0.0, past)


class _Reader:
    """Entries → lines. Leaves out what it has had, and says what is missing."""

    def __init__(self, from_start: bool) -> None:
        self._from_start = from_start
        #: By sandbox and stream: the next line's number, and the bytes before it.
        self._next: dict[tuple[str, str], tuple[int, int]] = {}
        #: The task is over.
        self.ended = False

    def read(self, milliseconds: int, fields: dict[bytes, bytes]) -> Iterator[LogLine]:
        when = datetime.fromtimestamp(milliseconds / 1000, UTC)
        sandbox, attempt = fields[b"sandbox"].decode(), int(fields[b"attempt"])
        if b"end" in fields:
            self.ended = fields[b"end"] == b"final"
            yield from self._end(when, sandbox, attempt, fields)
            return
        self.ended = False  # a second delivery of the task
        stream: Literal["stdout", "stderr"] = "stderr" if fields[b"stream"] == b"stderr" else "stdout"
        line, byte = int(fields[b"line"]), int(fields[b"byte"])
        texts = fields[b"text"].removesuffix(b"\n").split(b"\n")
        yield from self._missing(when, (sandbox, stream), attempt, line, byte)
        expected, _ = self._next.get((sandbox, stream), (line, byte))
        for text in texts[max(0, expected - line) :]:
            shown = text.removesuffix(b"\r").decode("utf-8", "backslashreplace")
            yield LogLine(when, stream, shown, attempt)
        if line + len(texts) > expected:
            self._next[sandbox, stream] = line + len(texts), byte + len(fields[b"text"])

    def _end(self, when: datetime, sandbox: str, attempt: int, fields: dict[bytes, bytes]) -> Iterator[LogLine]:
        for stream in ("stdout", "stderr"):
            line, byte = (int(fields[f"{stream}-{what}".encode()]) for what in ("lines", "bytes"))
            yield from self._missing(when, (sandbox, stream), attempt, line, byte)

    def _missing(self, when: datetime, where: tuple[str, str], attempt: int, line: int, byte: int) -> Iterator[LogLine]:
        at_line, at_byte = self._next.get(where, (0, 0) if self._from_start else (line, byte))
        if line > at_line or byte > at_byte:
            yield LogLine(when, "cellwork", f"{line - at_line} lines ({byte - at_byte} bytes) dropped", attempt)
            self._next[where] = line, byte
