"""One stream of a sandbox's output → numbered whole lines. Pure.

The same bytes give the same numbers, however they are cut: who reads can tell what it has seen already from what
was dropped.
"""

import msgspec


class Lines(msgspec.Struct, frozen=True):
    """Lines that follow one another."""

    #: Number of the first one in its stream, from 0.
    line: int
    #: Bytes of the stream before it.
    byte: int
    #: As printed, with the line feeds. The last line has none where it was cut or the stream ended.
    text: bytes


class LineCutter:
    """Takes what a stream prints, and what was lost of it, in order. Holds less than one `limit`."""

    def __init__(self, limit: int) -> None:
        """`limit`: most bytes of one `Lines`; a longer line is cut, and each piece counts as a line."""
        self._limit = limit
        self._held = b""
        self._skipping = False
        #: Lines and bytes that were given out or lost so far.
        self.line = 0
        self.byte = 0

    def feed(self, data: bytes) -> list[Lines]:
        """The lines that `data` completes."""
        if self._skipping:
            end = data.find(b"\n") + 1
            self.byte += end or len(data)
            if not end:
                return []
            self.line += 1
            self._skipping = False
            data = data[end:]
        buffer = self._held + data
        found, start, whole = [], 0, buffer.rfind(b"\n") + 1
        while start < whole or len(buffer) - start >= self._limit:
            end = buffer.rfind(b"\n", start, start + self._limit) + 1 or start + self._limit
            found.append(self._give(buffer[start:end]))
            start = end
        self._held = buffer[start:]
        return found

    def lost(self, lines: int, size: int, *, open_end: bool) -> None:
        """Some of the stream did not arrive here.

        Args:
            lines: line feeds in it.
            size: bytes of it.
            open_end: it did not end with a line feed, so that the rest of that line is worth nothing.
        """
        self.line += lines
        self.byte += len(self._held) + size
        self._held = b""
        self._skipping = open_end

    def finish(self) -> list[Lines]:
        """The last line, where it has no line feed."""
        self.line += self._skipping
        self._skipping = False
        held, self._held = self._held, b""
        return [self._give(held)] if held else []

    def _give(self, text: bytes) -> Lines:
        given = Lines(self.line, self.byte, text)
        self.line += text.count(b"\n") + (not text.endswith(b"\n"))
        self.byte += len(text)
        return given
