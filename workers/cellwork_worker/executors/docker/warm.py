"""One sandbox started ahead of need: the interpreter up, the code unpacked, waiting for one task."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from .containers import Container
from .stream import READY, Attached, Demux, chunks

_READ_BYTES = 1 << 16


@dataclass(eq=False)
class Warm:
    """One that waits."""

    container: Container
    streams: Attached
    image_id: str
    asked_at: float
    demux: Demux = field(default_factory=Demux)
    #: What it printed so far.
    output: list[tuple[int, bytes]] = field(default_factory=list)
    ready: bool = False

    @property
    def fd(self) -> int:
        return self.streams.socket.fileno()

    def alive(self) -> bool:
        """False once its output has ended."""
        try:
            return self.streams.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def read(self) -> bool:
        """Take what has arrived. False at the end."""
        try:
            data = self.streams.socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for stream, piece in self.demux.feed(data):
            self.output.append((stream, piece))
            if READY in piece:
                self.ready = True
                self.output[-1] = (stream, piece.replace(READY, b""))
        return bool(data)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """All that it prints: what came while it waited, then the task's."""
        yield from self.output
        yield from chunks(self.streams.read, self.demux)

    def printed(self) -> int:
        return sum(len(piece) for _, piece in self.output)
