"""The sandbox's standard output → the task's own output and the runner's frames (docs/protocol.md). Pure.

Whatever is fed here is hostile: memory is bounded by the size of one frame and of one outcome, and a frame that is
malformed is either plain output or a `Broken` one, never an exception.
"""

import json
from collections.abc import Iterator

import msgspec

from cellwork.outcome import InvalidDocument, loads

#: One frame, both line feeds included. POSIX keeps writes of this size to a pipe whole (PIPE_BUF on Linux).
FRAME_MAX_BYTES = 4096

#: An outcome carries a traceback and names beside the value whose size the user limits.
_SLACK_BYTES = 1 << 20

_KINDS = frozenset({"state", "usage", "outcome", "end"})


class Frame(msgspec.Struct, frozen=True):
    """A whole message of the runner."""

    kind: str
    data: object


class Broken(msgspec.Struct, frozen=True):
    """A message with the right nonce that is not one; `detail` says why."""

    kind: str
    detail: str
    #: Bytes received when it was given up for its size; None: it was not for that.
    size: int | None = None


class FrameParser:
    """Takes one stream apart. Feed it chunks as they come."""

    def __init__(self, nonce: str, max_bytes: int) -> None:
        """`nonce`: starts every frame. `max_bytes`: of the longest value that is taken."""
        self._marker = b"\n" + nonce.encode() + b" "
        self._max_bytes = max_bytes + _SLACK_BYTES
        self._held = b""
        self._kind = ""
        self._parts: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | Frame | Broken]:
        """Yield output and messages, in their order. Holds back only what may be the start of a frame."""
        buffer = self._held + chunk
        self._held = b""
        while buffer:
            start = buffer.find(self._marker)
            if start < 0:
                keep = self._open_marker(buffer)
                self._held = buffer[len(buffer) - keep :]
                if output := buffer[: len(buffer) - keep]:
                    yield output
                return
            if start:
                yield buffer[:start]
            end = buffer.find(b"\n", start + len(self._marker), start + FRAME_MAX_BYTES)
            if end < 0 and len(buffer) - start < FRAME_MAX_BYTES:
                self._held = buffer[start:]
                return
            if end < 0:
                yield self._marker
                buffer = buffer[start + len(self._marker) :]
                continue
            message = self._message(buffer[start + len(self._marker) : end])
            if message is not None:
                yield message
            buffer = buffer[end + 1 :]

    @property
    def holds_line_feed(self) -> bool:
        """What is held back is one line feed."""
        return self._held == b"\n"

    def close(self) -> bytes:
        """The output that was held back when the stream ended."""
        held, self._held = self._held, b""
        return held

    def _open_marker(self, buffer: bytes) -> int:
        """How many bytes at the end of `buffer` may be the start of a marker."""
        start = buffer.rfind(b"\n", max(0, len(buffer) - len(self._marker)))
        return len(buffer) - start if start >= 0 and self._marker.startswith(buffer[start:]) else 0

    def _message(self, text: bytes) -> Frame | Broken | None:
        try:
            frame = loads(text, extra_types=False)
        except InvalidDocument as error:
            return Broken("", f"a frame is {error}")
        kind = frame.get("kind") if isinstance(frame, dict) else None
        if not isinstance(frame, dict) or not isinstance(kind, str) or kind not in _KINDS:
            return Broken("", "a frame has no kind that is known")
        if "part" not in frame:
            # Decoded twice, because Celery's extra types are the data's only; the frame is 4 KiB at most.
            return self._decode(kind, json.dumps(frame.get("data")))
        return self._part(kind, frame)

    def _part(self, kind: str, frame: dict[str, object]) -> Frame | Broken | None:
        part, of, text = frame.get("part"), frame.get("of"), frame.get("text")
        if part == 0:
            self._kind, self._parts, self._size = kind, [], 0
        if not isinstance(text, str) or not isinstance(of, int) or kind != self._kind or part != len(self._parts):
            self._parts = []
            return Broken(kind, f"part {part!r:.20} of a message is out of order")
        self._size += len(text)
        if self._size > self._max_bytes:
            self._kind, self._parts = "", []
            return Broken(kind, f"larger than {self._max_bytes} bytes", self._size)
        self._parts.append(text)
        if len(self._parts) < of:
            return None
        document, self._parts = "".join(self._parts), []
        return self._decode(kind, document)

    def _decode(self, kind: str, document: str) -> Frame | Broken:
        try:
            return Frame(kind, loads(document))
        except InvalidDocument as error:
            return Broken(kind, str(error))
