"""What an image says of itself: id, size, program, and the volumes that the engine would make on the disk."""

import threading
import time
from typing import NamedTuple

from docker.errors import ImageNotFound

from cellwork_worker.executors.shell import Program

from .engine import Engine

#: Seconds for which an image's answer is kept: a name may come to mean another image.
_KEEP = 30.0


class Facts(NamedTuple):
    """Of one image."""

    #: The engine's; empty: it does not have it (yet).
    id: str = ""
    #: Bytes, with its base.
    size: int | None = None
    volumes: tuple[str, ...] = ()
    program: Program | None = None


_NONE = Facts()


class ImageFacts:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Facts]] = {}

    def of(self, image: str, *, fresh: bool = False) -> Facts:
        """Of the image that has this name; `fresh`: now, and not half a minute ago."""
        with self._lock:
            asked, facts = self._known.get(image, (0.0, _NONE))
        if asked and not fresh and time.monotonic() - asked < _KEEP:
            return facts
        try:
            found = self._engine.client.inspect_image(image)
        except ImageNotFound:
            return _NONE
        config = found["Config"] or {}
        facts = Facts(
            id=found["Id"],
            size=int(found["Size"]),
            volumes=tuple(sorted(config.get("Volumes") or ())),
            program=Program(tuple(config.get("Entrypoint") or ()), tuple(config.get("Cmd") or ())),
        )
        with self._lock:
            self._known[image] = time.monotonic(), facts
        return facts

    def size(self, image: str) -> int | None:
        """As it was when that was asked last; None: not known. Does not ask."""
        with self._lock:
            return self._known.get(image, (0.0, _NONE))[1].size
