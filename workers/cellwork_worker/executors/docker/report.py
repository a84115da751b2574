"""The end of a command's standard error, where the shell around it tells what it used: not a part of its output."""

from cellwork_worker.executors.base import STDERR, Emit

#: Bytes that may stand behind the mark. What is longer is output that looks like it.
_MOST = 16 * 1024


#: Lines that stand behind it, and more: so many has a kernel with dozens of block devices and network interfaces.
LINES = 256


def mark(launch_id: str) -> str:
    """What the shell around that launch's command writes in front of what it tells."""
    return f"\x1e{launch_id} "


def without(output: bytes, launch_id: str) -> bytes:
    """`output` as an engine keeps it, without what a shell told."""
    return output.partition(mark(launch_id).encode())[0]


class Report:
    """Of one command, whose output goes through `emit`."""

    def __init__(self, launch_id: str, emit: Emit) -> None:
        """`emit`: gets the output itself."""
        self._mark = mark(launch_id).encode()
        self._emit = emit
        #: May be the mark's beginning, or is the mark and what follows it.
        self._held = b""

    def emit(self, stream: int, piece: bytes) -> bool:
        """See `Emit`."""
        if stream != STDERR:
            return self._emit(stream, piece)
        held = self._held + piece
        at = held.find(self._mark)
        while at >= 0 and len(held) - at > _MOST:
            at = held.find(self._mark, at + 1)
        if at < 0:
            at = len(held) - self._begun(held)
        self._held = held[at:]
        return self._emit(stream, held[:at]) if at else False

    def end(self) -> str:
        """What its shell told; empty: nothing. There is no more output."""
        held, self._held = self._held, b""
        if held.startswith(self._mark):
            return held.removeprefix(self._mark).decode("ascii", "replace")
        if held:
            self._emit(STDERR, held)
        return ""

    def _begun(self, held: bytes) -> int:
        """Bytes at its end that the mark may begin with."""
        return next((size for size in range(len(self._mark) - 1, 0, -1) if held.endswith(self._mark[:size])), 0)
