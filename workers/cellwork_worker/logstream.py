"""A sandbox's output → entries of its task's Redis stream (docs/logs.md has the format). Pure."""

from collections import deque
from collections.abc import Iterable

import msgspec

from cellwork_worker.executors.base import STDERR, STDOUT
from cellwork_worker.lines import LineCutter

NAMES = {STDOUT: "stdout", STDERR: "stderr"}

#: Bytes of one entry, unless the whole stream may have few.
_ENTRY_BYTES = 32 << 10

#: What Redis needs for an entry beside its text, about.
_OVERHEAD_BYTES = 100


class Entry(msgspec.Struct, frozen=True):
    """What is appended."""

    fields: dict[str, bytes | str | int]
    #: The stream is cut to so many entries, the newest ones.
    keep: int


class Gap(msgspec.Struct, frozen=True):
    """What was dropped of a stream."""

    lines: int = 0
    size: int = 0
    #: It did not end with a line feed.
    open_end: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a sandbox since the last one."""

    #: Stream and bytes, in the order of arrival.
    pieces: Iterable[tuple[int, bytes]]
    #: By stream: what was dropped before the pieces.
    gaps: dict[int, Gap] = {}
    #: Nothing more comes from the sandbox.
    closed: bool = False
    #: The end of the task's run. True: it is over; False: it will be tried again. None: neither yet.
    final: bool | None = None


class LogStream:
    """One sandbox's part of the stream of its task."""

    def __init__(self, sandbox: str, attempt: int, max_bytes: int, max_entries: int) -> None:
        """Args:
        sandbox, attempt: said in each entry.
        max_bytes, max_entries: of the whole stream, of which the newest stay.
        """
        self._fields: dict[str, bytes | str | int] = {"sandbox": sandbox, "attempt": attempt}
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        limit = min(_ENTRY_BYTES, max(1, max_bytes // 8))
        self._cutters = {stream: LineCutter(limit) for stream in NAMES}
        self._sizes: deque[int] = deque()
        self._size = 0
        #: Bytes of earlier attempts that the stream still has; None: not known yet.
        self._before: int | None = None

    @property
    def is_new(self) -> bool:
        """Nobody has said yet what earlier attempts have left in the stream."""
        return self._before is None

    def entries(self, batch: Batch) -> list[Entry]:
        """What to append."""
        found = []
        for stream, gap in batch.gaps.items():
            self._cutters[stream].lost(gap.lines, gap.size, open_end=gap.open_end)
        for stream, data in _joined(batch.pieces):
            found += self._lines(stream, data)
        if batch.closed:
            for stream in NAMES:
                found += self._lines(stream, None)
        if batch.final is not None:
            found.append(self._end(batch.final))
        return found

    def _lines(self, stream: int, data: bytes | None) -> list[Entry]:
        cutter = self._cutters[stream]
        return [
            self._kept(
                {"stream": NAMES[stream], "line": lines.line, "byte": lines.byte, "text": lines.text}, len(lines.text)
            )
            for lines in (cutter.finish() if data is None else cutter.feed(data))
        ]

    def _end(self, final: bool) -> Entry:
        fields: dict[str, bytes | str | int] = {"end": "final" if final else "retry"}
        for stream, name in NAMES.items():
            fields |= {f"{name}-lines": self._cutters[stream].line, f"{name}-bytes": self._cutters[stream].byte}
        return self._kept(fields, 0)

    def _kept(self, fields: dict[str, bytes | str | int], size: int) -> Entry:
        self._sizes.append(size + _OVERHEAD_BYTES)
        self._size += size + _OVERHEAD_BYTES
        while len(self._sizes) > 1 and (self._size > self._max_bytes or len(self._sizes) > self._max_entries):
            self._size -= self._sizes.popleft()
            self._before = 0  # earlier attempts are older, so they go first
        return Entry({**self._fields, **fields}, self._keep())

    def measured(self, size: int) -> int:
        """The stream has `size` bytes after the first batch. Returns to how many entries to cut it."""
        self._before = max(0, size - self._size)
        return self._keep()

    def _keep(self) -> int:
        if self._before and self._size + self._before > self._max_bytes:
            self._before = 0
        return len(self._sizes) if self._before == 0 else self._max_entries


def _joined(pieces: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbours of one stream as one piece."""
    joined: list[tuple[int, list[bytes]]] = []
    for stream, data in pieces:
        if joined and joined[-1][0] == stream:
            joined[-1][1].append(data)
        else:
            joined.append((stream, [data]))
    return [(stream, b"".join(parts)) for stream, parts in joined]
