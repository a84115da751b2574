"""Takes the values of secrets out of what leaves a sandbox. Pure."""

import re
from collections.abc import Iterable
from typing import Any

REDACTED = "[redacted]"

#: Of a secret of several lines, such as a key, a line of so many characters counts by itself.
_LINE_CHARS = 8


class Redaction:
    """Values as they stand; what a body encodes or cuts apart is not recognised."""

    def __init__(self, values: Iterable[str]) -> None:
        found = {value for value in values if value}
        found |= {line for value in found for line in value.splitlines() if len(line) >= _LINE_CHARS}
        longest_first = sorted(found, key=len, reverse=True)
        self._values = [value.encode() for value in longest_first]
        self._bytes = re.compile(b"|".join(re.escape(value) for value in self._values))
        self._text = re.compile("|".join(re.escape(value) for value in longest_first))
        self._held: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> bytes:
        """`data` without them. Holds back the end where one may have begun; see `close`."""
        if not self._values:
            return data
        buffer = self._held.pop(stream, b"") + data
        last = None
        for last in self._bytes.finditer(buffer):  # noqa: B007 - the last one is what is wanted
            pass
        end = len(buffer) - self._begun(buffer[last.end() if last else 0 :])
        self._held[stream] = buffer[end:]
        return self._bytes.sub(REDACTED.encode(), buffer[:end])

    def close(self, stream: int) -> bytes:
        """What was held back, once the stream has ended."""
        return self._held.pop(stream, b"")

    def value(self, value: Any) -> Any:
        """A JSON value without them."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self._text.sub(REDACTED, value)
        if isinstance(value, bytes):
            return self._bytes.sub(REDACTED.encode(), value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        return value

    def _begun(self, tail: bytes) -> int:
        """How many bytes at the end of `tail` are the beginning of a value."""
        return max(_begun(value, tail) for value in self._values)


def _begun(value: bytes, tail: bytes) -> int:
    at = tail.find(value[:1], max(0, len(tail) - len(value) + 1))
    while at >= 0 and not value.startswith(tail[at:]):
        at = tail.find(value[:1], at + 1)
    return len(tail) - at if at >= 0 else 0
