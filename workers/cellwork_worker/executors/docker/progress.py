"""How far a build is, and what its failure quotes: the step, and the last lines that it printed. Pure."""

import collections
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from cellwork.errors import ImageBuildFailed
from cellwork.printable import printable
from cellwork_worker.redaction import Redaction

#: Lines of a failing step that the error quotes, and characters of each.
_LINES = 20
_LINE_LENGTH = 500


class Progress:
    """Of one build. Everything goes through it that leaves the build, so no secret does."""

    def __init__(self, tag: str, say: Callable[[int, int, str], None], secrets: Iterable[str]) -> None:
        """`say`: is told the step's number, of how many, and its text."""
        self._tag, self._say = tag, say
        values = list(secrets)
        # Of an address, also what it has for a password.
        self._redaction = Redaction([*values, *filter(None, map(_password, values))])
        self._step = "the sending of its files"
        self._last: collections.deque[str] = collections.deque(maxlen=_LINES)

    def at(self, number: int, of: int, text: str) -> None:
        """A step begins."""
        text = self._shown(text.strip())
        self._step = f"step {number}/{of} ({text})"
        self._last.clear()
        self._say(number, of, text)

    def printed(self, text: str) -> None:
        """The step printed this."""
        # Redacted as a whole first: a secret may have several lines.
        self._last.extend(self._shown(line) for line in self._redacted(text).splitlines() if line.strip())

    def printed_by(self, stream: int, data: bytes) -> None:
        """The same, as it comes: a secret may come in two pieces."""
        self.printed(self._redaction.feed(stream, data).decode(errors="replace"))

    def failed(self, why: str, step: str = "") -> ImageBuildFailed:
        """The error. `step`: what failed, where that is none of the steps."""
        last = "" if step or not self._last else "\nIts last lines:\n" + "\n".join(f"  {line}" for line in self._last)
        return ImageBuildFailed(
            f"image {self._tag} cannot be built: {step or self._step} failed: {printable(self._redacted(why))}{last}"
        )

    def _redacted(self, text: str) -> str:
        return str(self._redaction.value(text))

    def _shown(self, text: str) -> str:
        return printable(self._redacted(text))[:_LINE_LENGTH]


def _password(value: str) -> str | None:
    try:
        return urlsplit(value).password
    except ValueError:
        return None  # no address
