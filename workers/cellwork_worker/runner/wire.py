"""The wire: two parts of a payload in, frames out (docs/protocol.md)."""

import _signal as signal
import _thread
import os
import struct

from . import text

#: POSIX keeps a write of this size to a pipe whole.
FRAME_MAX_BYTES = 4096

#: Characters of a part. Escaped once more as JSON they are at most twice as many, and the rest of a frame fits, too.
_PART_CHARS = 1900

#: What a sandbox that was started ahead of need prints once it waits for its task. Not secret: nothing depends on it
#: but when the sandbox is taken.
READY = b"\n\0cellwork-ready\n"

#: What a sandbox prints last that ends without having got a task: the task may be given to another one.
NO_TASK = b"\ncellwork: standard input ended before the task came; nothing was run\n"

#: The kubelet makes this file in a pod, and shows up to 4096 bytes of it in the pod's status.
_LAST_WORDS = "/dev/termination-log"


def read_payload(fd, patience):
    """The next part's header and data; None where the worker left before it sent one. SIGALRM comes where nothing
    arrives for `patience` seconds; 0: never."""
    head = _read(fd, 12, patience)
    if head is None:
        return None
    size, header_size = struct.unpack(">QI", head)
    rest = _read(fd, size - 4, patience)
    if rest is None:
        return None
    return text.loads(rest[:header_size].decode("ascii")), rest[header_size:]


def _read(fd, size, patience):
    chunks, left = [], size
    while left:
        signal.alarm(patience)
        chunk = os.read(fd, min(left, 1 << 20))
        signal.alarm(0)
        if not chunk:
            return None
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


class Wire:
    """Sends frames, on copies of the standard streams that the task does not know."""

    def __init__(self, nonce):
        self._nonce = nonce.encode("ascii")
        self._fds = {1: os.dup(1), 2: os.dup(2)}
        self._lock = _thread.allocate_lock()

    def send(self, kind, document, stream=1):
        """Send a message. `document`: JSON text, ASCII."""
        whole = self._frame('{"kind": "%s", "data": %s}' % (kind, document))
        if len(whole) <= FRAME_MAX_BYTES:
            frames = [whole]
        else:
            pieces = [document[i : i + _PART_CHARS] for i in range(0, len(document), _PART_CHARS)]
            frames = [
                self._frame(text.dumps({"kind": kind, "part": i, "of": len(pieces), "text": piece}))
                for i, piece in enumerate(pieces)
            ]
        with self._lock:
            for frame in frames:
                self._write(self._fds[stream], frame)

    def last(self, kind, document):
        """Send a message, and leave a short one where a pod's status shows it even if its log is lost."""
        whole = self._frame('{"kind": "%s", "data": %s}' % (kind, document))
        if len(whole) <= FRAME_MAX_BYTES and os.path.exists(_LAST_WORDS):
            try:
                with open(_LAST_WORDS, "wb") as file:
                    file.write(whole)
            except OSError:
                pass  # the log has it
        self.send(kind, document)

    def _frame(self, text):
        return b"\n" + self._nonce + b" " + text.encode("ascii") + b"\n"

    def _write(self, fd, data):
        while data:
            data = data[os.write(fd, data) :]
