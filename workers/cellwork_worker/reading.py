"""What comes out of one sandbox while it runs: the task's output, its progress, its outcome."""

import logging
from collections.abc import Callable

from celery import states

from cellwork import outcome
from cellwork.printable import printable
from cellwork.settings import Settings
from cellwork_worker.executors.base import STDERR, STDOUT
from cellwork_worker.frames import Broken, Frame, FrameParser
from cellwork_worker.logs import SandboxLog
from cellwork_worker.redaction import Redaction

logger = logging.getLogger("cellwork.task")

#: Of one task's output, what is forwarded to the worker's own log; the rest is counted.
_FORWARD_BYTES = 64 * 1024

_STATE_MAX_CHARS = 64


class Reading:
    """Takes a sandbox's output apart, with bounded memory."""

    def __init__(
        self,
        sandbox: str,
        nonce: str | None,
        settings: Settings,
        on_state: Callable[[str, object], None],
        log: SandboxLog,
        redaction: Redaction,
    ) -> None:
        """Args:
        sandbox: its name, for log lines.
        nonce: of its frames; None: a command task, whose standard output is its result.
        settings: for the limits.
        on_state: told of every `update_state`.
        log: takes all that the task prints.
        redaction: of the task's secrets, from all that comes out.
        """
        self._sandbox = sandbox
        self._settings = settings
        self._on_state = on_state
        self._log = log
        self._redaction = redaction
        self._parsers = {stream: FrameParser(nonce, settings.result_max_bytes) for stream in (STDOUT, STDERR) if nonce}
        #: Streams of which the log has a line feed that the parser still holds back.
        self._ahead: set[int] = set()
        #: Streams whose last line has no line feed yet.
        self._open: set[int] = set()
        self._forwarded = 0
        self._ended = False
        self.dropped = 0
        self.tail = b""
        #: Standard output of a command task, up to `result_max_bytes` and one byte more.
        self.stdout = bytearray()
        self.outcome: outcome.Outcome | None = None
        self.usage: object = None

    def emit(self, stream: int, chunk: bytes) -> bool:
        """See `executors.base.Emit`."""
        parser = self._parsers.get(stream)
        if parser is None:
            self._output(stream, chunk)
            return False
        for item in parser.feed(chunk):
            if isinstance(item, bytes):
                self._output(stream, item)
            else:
                self._ahead.discard(stream)
                self._message(stream, item)
        if parser.holds_line_feed and stream in self._open:
            # It may begin a frame, but ends a line as well: who follows the output must not wait for the next one.
            self._ahead.add(stream)
            self._open.discard(stream)
            self._printed(stream, self._redaction.feed(stream, b"\n"), ahead=True)
        # The end mark says that everything printed on standard error is here too.
        return self.outcome is not None and self._ended

    def close(self) -> None:
        """Deliver what was held back, once nothing more comes."""
        for stream, parser in self._parsers.items():
            if held := parser.close():
                self._output(stream, held)
        for stream in (STDOUT, STDERR):
            self._printed(stream, self._redaction.close(stream))
        self._log.close()
        if self.dropped:
            logger.warning("%s printed %d bytes more, not shown here", self._sandbox, self.dropped)

    def _output(self, stream: int, data: bytes) -> None:
        if stream in self._ahead:
            self._ahead.discard(stream)
            data = data[1:]
        if data.endswith(b"\n"):
            self._open.discard(stream)
        elif data:
            self._open.add(stream)
        self._printed(stream, self._redaction.feed(stream, data))

    def _printed(self, stream: int, data: bytes, *, ahead: bool = False) -> None:
        if data:
            self._keep(stream, data)
        if shown := data.removesuffix(b"\n") if ahead else data:
            self._forward(shown)

    def _keep(self, stream: int, data: bytes) -> None:
        self._log.write(stream, data)
        self.tail = (self.tail + data[-self._settings.log_tail_bytes :])[-self._settings.log_tail_bytes :]
        if stream == STDOUT and not self._parsers:
            self.stdout += data[: self._settings.result_max_bytes + 1 - len(self.stdout)]

    def _forward(self, data: bytes) -> None:
        """Show it in the worker's own log."""
        shown = data[: max(0, _FORWARD_BYTES - self._forwarded)]
        self._forwarded += len(shown)
        self.dropped += len(data) - len(shown)
        if shown and logger.isEnabledFor(logging.INFO):
            for line in shown.decode("utf-8", "backslashreplace").splitlines():
                logger.info("%s| %s", self._sandbox, printable(line))

    def _message(self, stream: int, message: Frame | Broken) -> None:
        if message.kind == "end":
            # Comes on standard error, and by whichever way that goes.
            self._ended = True
        elif self.outcome is not None and stream == STDOUT:
            return
        elif stream == STDERR:
            self._complain(f"sent a {message.kind} frame on standard error; ignored")
        elif isinstance(message, Broken):
            self._broken(message)
        elif message.kind == "outcome":
            self._take(message.data)
        elif message.kind == "state":
            self._state(message.data)
        elif message.kind == "usage":
            self.usage = message.data

    def _complain(self, what: str) -> None:
        """In the worker's own log, of which a sandbox gets no more for its frames than for its output."""
        if self._forwarded < _FORWARD_BYTES:
            self._forwarded += len(what)
            logger.warning("%s %s", self._sandbox, what)

    def _take(self, data: object) -> None:
        try:
            self.outcome = outcome.parse(self._redacted(data))
        except outcome.InvalidDocument as error:
            self.outcome = outcome.Invalid(str(error))

    def _redacted(self, data: object) -> object:
        if not isinstance(data, dict):
            return data
        # What the outcome is stays readable, and so do a retry's arguments: they are the next run's.
        return {k: v if k in ("status", "type", "options") else self._redaction.value(v) for k, v in data.items()}

    def _broken(self, message: Broken) -> None:
        if message.kind == "outcome" and message.size is not None:
            self.outcome = outcome.TooLarge(message.size, self._settings.result_max_bytes)
        elif message.kind == "outcome":
            self.outcome = outcome.Invalid(message.detail)
        else:
            self._complain(f"sent a broken frame; ignored: {message.detail}")

    def _state(self, data: object) -> None:
        name = data.get("state") if isinstance(data, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= _STATE_MAX_CHARS or name in states.READY_STATES:
            self._complain(f"asked for state {name!r:.80}, which a task cannot set itself; ignored")
            return
        assert isinstance(data, dict)
        self._on_state(name, self._redaction.value(data.get("meta")))
