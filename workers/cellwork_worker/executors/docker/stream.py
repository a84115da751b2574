"""The engine's stream of a container's output: an 8-byte head, then that many bytes (API, "Stream format")."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import requests
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

_HEAD = struct.Struct(">BxxxL")
_READ_BYTES = 1 << 16


def chunks(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Take the stream apart into (file descriptor, bytes), as it arrives: a long entry comes in pieces.

    Args:
        read: gives at most so many bytes; nothing at the end.
    """
    held, stream, left = b"", 0, 0
    while data := read(_READ_BYTES):
        held += data
        while held:
            if left:
                piece, held = held[:left], held[left:]
                left -= len(piece)
                yield stream, piece
            elif len(held) >= _HEAD.size:
                stream, left = _HEAD.unpack(held[: _HEAD.size])
                held = held[_HEAD.size :]
            else:
                break


class Attached:
    """A container's standard streams, connected before it starts."""

    def __init__(self, raw: Any) -> None:
        """`raw`: what docker-py's ``attach_socket`` gives: a socket, or a file around one."""
        self._raw = raw  # kept: closing the file closes the connection
        self._sock: socket.socket = getattr(raw, "_sock", raw)
        # docker-py sets its answer timeout on the socket; a task may well be silent for longer.
        self._sock.settimeout(None)

    def send(self, payload: bytes | None) -> None:
        """Write `payload` to standard input and close that."""
        if payload:
            self._sock.sendall(payload)
        if hasattr(self._sock, "shutdown"):
            self._sock.shutdown(socket.SHUT_WR)

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


class Followed:
    """A container's log from its first line, followed to its end: what adoption reads."""

    def __init__(self, response: requests.Response) -> None:
        """`response`: of the engine's ``logs`` request, not yet read."""
        self._response = response

    def read(self, size: int) -> bytes:
        """At most `size` bytes of output; nothing at the end, or once `close` was called."""
        try:
            return bytes(self._response.raw.read1(size))
        except (OSError, HTTPError, AttributeError, ValueError):
            return b""

    def close(self) -> None:
        """Disconnect; wakes a thread that is in `read`, which closing the response alone would wait for."""
        with suppress(OSError, AttributeError):  # it is at its end
            CancellableStream(iter(()), self._response).close()
        self._response.close()
