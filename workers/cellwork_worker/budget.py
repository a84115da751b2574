"""What a task may spend on failures that are not its own: so many sandboxes lost, and so long without an engine."""

import random
import time
from collections.abc import Callable

from cellwork.errors import CellworkError, EngineUnavailable
from cellwork.settings import Settings

#: Seconds between two tries at most: an engine that returns should not be left idle for longer.
_LONGEST_PAUSE = 5.0


class Budget:
    """Of one delivery of one task."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds."""
        self._settings = settings
        self._clock = clock
        self._lost = 0
        #: Since when no engine has run it, and the tries since then.
        self._away_since: float | None = None
        self._away_tries = 0

    def ran(self) -> None:
        """An engine has its sandbox running: one that goes away later is away anew."""
        self._away_since, self._away_tries = None, 0

    def pause(self, error: CellworkError) -> float | None:
        """Seconds until the next try; None: there is none, the task fails with `error`."""
        if not isinstance(error, EngineUnavailable):
            if self._lost >= self._settings.infra_retries:
                return None
            self._lost += 1
            return self._after(self._lost)
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        elif now - self._away_since >= self._settings.engine_patience:
            return None
        self._away_tries += 1
        return min(_LONGEST_PAUSE, self._after(self._away_tries))

    def _after(self, tries: int) -> float:
        # Half of it at random, so that the tasks of an engine that restarts do not all return at once.
        doubled = self._settings.infra_backoff * 2.0 ** min(tries - 1, 30)
        return doubled * random.uniform(0.5, 1.0)  # noqa: S311
