"""What running containers have used until now, as their engine tells it: for the bill of those that will not tell.

Nobody knows which sandbox will be killed, or crash, so all are looked at while they run: soon, and then less and less.
What ends within a second costs the engine nothing.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import requests
from docker.errors import DockerException

from .engine import Engine
from .usage import totals

logger = logging.getLogger("cellwork.worker")

#: Seconds between two rounds, and rounds without any container after which the thread ends.
_TURN, _IDLE = 1.0, 60

#: Seconds between two looks at one container: as long as it has run, but at most this; less where nothing else tells.
_SELDOM, _OFTEN = 15.0, 1.0

#: Seconds for an answer. Engines before Docker 25 give it at the end of their own turn, which is a second.
_TIMEOUT = 3.0


class Look:
    """At one container."""

    def __init__(self, container: str, *, alone: bool) -> None:
        self.container = container
        #: By the names of the runner's frame `usage`; memory is the largest that was seen.
        self.found: Mapping[str, float] = {}
        self._longest = _OFTEN if alone else _SELDOM
        self._began = time.monotonic()
        self._due = 0.0 if alone else _TURN

    @property
    def due(self) -> bool:
        """It is time for another one."""
        return time.monotonic() - self._began >= self._due

    def asked(self) -> None:
        """One is made now."""
        age = time.monotonic() - self._began
        self._due = age + min(age, self._longest)

    def add(self, stats: dict[str, Any]) -> None:
        """The engine's answer. All but memory only grow; a container that ends is told with zeros."""
        seen = totals(stats)
        self.found = {name: max(self.found.get(name, 0), seen.get(name, 0)) for name in (*self.found, *seen)}


class Looks:
    """Of one engine's containers, from a thread that is there while there are any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._looks: set[Look] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def begin(self, container: str, *, alone: bool) -> Look:
        """It runs.

        Args:
            container: the engine's id.
            alone: nothing else will tell what it uses.
        """
        look = Look(container, alone=alone)
        with self._lock:
            self._looks.add(look)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="docker-looks", daemon=True)
                self._thread.start()
        if alone:
            # It may be over at any time.
            self._wake.set()
        return look

    def end(self, look: Look) -> None:
        """It has ended."""
        with self._lock:
            self._looks.discard(look)

    def _work(self) -> None:
        idle = 0
        while idle < _IDLE or not self._over():
            self._wake.wait(_TURN)
            self._wake.clear()
            with self._lock:
                looks = [look for look in self._looks if look.due]
                idle = 0 if self._looks else idle + 1
            for look in looks:
                if look in self._looks:
                    self._ask(look)

    def _over(self) -> bool:
        with self._lock:
            if self._looks:
                return False
            self._thread = None
            return True

    def _ask(self, look: Look) -> None:
        look.asked()
        client = self._engine.client
        url = f"{client.base_url}/v{client.api_version}/containers/{look.container}/stats"
        try:
            # As it is, without a second look one second later.
            response = client.get(url, params={"stream": "0", "one-shot": "1"}, timeout=_TIMEOUT)
            if response.ok:
                look.add(response.json())
        except (requests.RequestException, DockerException, ValueError) as error:
            logger.debug("what container %s uses is not known: %s", look.container[:12], error)
