"""The volumes that an image declares for itself (VOLUME), which the engine would make on the host's disk."""

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
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def of(self, image: str) -> tuple[str, ...]:
        """The paths; none where the engine does not have the image (yet)."""
        with self._lock:
            asked, paths = self._known.get(image, (-_KEEP, ()))
        if time.monotonic() - asked < _KEEP:
            return paths
        try:
            config = self._engine.client.inspect_image(image)["Config"]
        except ImageNotFound:
            return ()
        paths = tuple(sorted((config or {}).get("Volumes") or ()))
        with self._lock:
            self._known[image] = time.monotonic(), paths
        return paths
