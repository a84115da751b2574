"""What an image says of itself: its id, and the volumes it declares, which the engine would make on the host's disk."""

import threading
import time

from docker.errors import ImageNotFound

from .engine import Engine

#: Seconds for which an image's answer is kept: a name may come to mean another image.
_KEEP = 30.0


class DeclaredVolumes:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, tuple[str, ...], str]] = {}

    def of(self, image: str) -> tuple[str, ...]:
        """The paths; none where the engine does not have the image (yet)."""
        with self._lock:
            asked, paths, _ = self._known.get(image, (-_KEEP, (), ""))
        if time.monotonic() - asked < _KEEP:
            return paths
        try:
            found = self._engine.client.inspect_image(image)
        except ImageNotFound:
            return ()
        paths = tuple(sorted((found["Config"] or {}).get("Volumes") or ()))
        with self._lock:
            self._known[image] = time.monotonic(), paths, found["Id"]
        return paths

    def image_id(self, image: str) -> str:
        """The engine's id of the image when `of` asked last; empty: it did not have it."""
        with self._lock:
            return self._known[image][2] if image in self._known else ""
