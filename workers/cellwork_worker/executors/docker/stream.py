"""The engine's stream of a container's output: an 8-byte head, then that many bytes (API, "Stream format")."""

import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

_HEAD = struct.Struct(">BxxxL")
_READ_BYTES = 1 << 16

_STDOUT = 1

#: See the same in runner/wire.py.
READY = b"\n\0cellwork-ready\n"

#: What imports may print before it.
_READY_WITHIN = 1 << 16


class Demux:
    """Takes the stream apart, piece by piece."""

    def __init__(self) -> None:
        self._held, self._stream, self._left = b"", 0, 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(file descriptor, bytes), as it arrives: a long entry comes in pieces."""
        held = self._held + data
        while held:
            if self._left:
                piece, held = held[: self._left], held[self._left :]
                self._left -= len(piece)
                yield self._stream, piece
            elif len(held) >= _HEAD.size:
                self._stream, self._left = _HEAD.unpack(held[: _HEAD.size])
                held = held[_HEAD.size :]
            else:
                break
        self._held = held


def chunks(read: Callable[[int], bytes], demux: Demux) -> Iterator[tuple[int, bytes]]:
    """All that comes, as (file descriptor, bytes). `read`: gives at most so many bytes; nothing at the end."""
    while data := read(_READ_BYTES):
        yield from demux.feed(data)


def skip_ready(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Without the mark that a sandbox prints which was started ahead of need. Only its first `_READY_WITHIN` bytes
    of standard output are looked at."""
    before: bytes | None = b""
    for stream, data in pieces:
        if before is None or stream != _STDOUT:
            yield stream, data
            continue
        before += data
        out, mark, rest = before.partition(READY)
        if mark or len(before) > _READY_WITHIN:
            before = None
            for piece in (out, rest):
                if piece:
                    yield _STDOUT, piece
    if before:
        yield _STDOUT, before


class Attached:
    """A container's standard streams, connected before it starts."""

    def __init__(self, raw: Any) -> None:
        """`raw`: what docker-py's ``attach_socket`` gives: a socket, or a file around one."""
        self._raw = raw  # kept: closing the file closes the connection
        self._sock: socket.socket = getattr(raw, "_sock", raw)
        # docker-py sets its answer timeout on the socket; a task may well be silent for longer.
        self._sock.settimeout(None)

    @property
    def socket(self) -> socket.socket:
        """For `select`, and for a look at what has arrived."""
        return self._sock

    def write(self, data: bytes) -> None:
        """Write to standard input.

        Raises:
            OSError: the container has ended.
        """
        self._sock.sendall(data)

    def read(self, size: int) -> bytes:
        """At most `size` bytes of output; nothing at the end, or once `close` was called."""
        try:
            return self._sock.recv(size)
        except OSError:
            return b""

    def close(self) -> None:
        """Disconnect; wakes a thread that is in `read`."""
        with suppress(OSError):  # the other side was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        if hasattr(self._raw, "close"):
            self._raw.close()
