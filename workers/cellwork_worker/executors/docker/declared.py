"""What an image says of itself: id, size, and the volumes it declares, which the engine would make on the disk."""

import threading
import time
from typing import NamedTuple

from docker.errors import ImageNotFound

from .engine import Engine

#: Seconds for which an image's answer is kept: a name may come to mean another image.
_KEEP = 30.0


class _Known(NamedTuple):
    asked: float
    volumes: tuple[str, ...]
    id: str
    size: int


class DeclaredVolumes:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def of(self, image: str) -> tuple[str, ...]:
        """The paths; none where the engine does not have the image (yet)."""
        with self._lock:
            known = self._known.get(image)
        if known is not None and time.monotonic() - known.asked < _KEEP:
            return known.volumes
        try:
            found = self._engine.client.inspect_image(image)
        except ImageNotFound:
            return ()
        paths = tuple(sorted((found["Config"] or {}).get("Volumes") or ()))
        with self._lock:
            self._known[image] = _Known(time.monotonic(), paths, found["Id"], int(found["Size"]))
        return paths

    def image_id(self, image: str) -> str:
        """The engine's id of the image when `of` asked last; empty: it did not have it."""
        with self._lock:
            return self._known[image].id if image in self._known else ""

    def size(self, image: str) -> int | None:
        """Its bytes, with its base; None: not known."""
        with self._lock:
            return self._known[image].size if image in self._known else None
