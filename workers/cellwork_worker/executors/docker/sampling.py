"""What a command's container uses, as its engine tells it: where it is killed, or has no shell around it."""

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import requests
from docker.errors import APIError, DockerException

from .engine import Engine
from .usage import totals

logger = logging.getLogger("cellwork.worker")

#: Seconds until the engine is asked for its figures of every second: a shorter run costs it nothing.
_BEGIN = 0.5

#: Seconds before each question to it about one that has no shell around it and may be over at any time; after these it
#: is asked for those of every second, too.
_FIRST = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)


class Sampling:
    """Of one container, from a thread of its own that ends with the container."""

    def __init__(self, engine: Engine, container: str, *, alone: bool) -> None:
        """`container`: the engine's id. `alone`: nothing else tells what it uses."""
        self._engine = engine
        self._alone = alone
        self._container = container
        self._over = threading.Event()
        self._found: dict[str, float] = {}
        threading.Thread(target=self._follow, name=f"usage of {container[:12]}", daemon=True).start()

    def end(self) -> Mapping[str, float]:
        """What was found, as of the last second; the names are those of the runner's frame `usage`."""
        self._over.set()
        return self._found

    def _follow(self) -> None:
        try:
            if self._looked() if self._alone else self._over.wait(_BEGIN):
                return
            with self._stats(stream="1") as response:
                for line in response.iter_lines():
                    if self._over.is_set() or not response.ok:
                        return
                    self._add(json.loads(line))
        except (requests.RequestException, DockerException, APIError, ValueError) as error:
            logger.info("what container %s uses is not known from here on: %s", self._container[:12], error)

    def _looked(self) -> bool:
        """Look a few times; True: it is over."""
        for pause in _FIRST:
            if self._over.wait(pause):
                return True
            with self._stats(stream="0", **{"one-shot": "1"}) as response:
                if response.ok:
                    self._add(response.json())
        return False

    def _stats(self, **params: str) -> requests.Response:
        client = self._engine.client
        url = f"{client.base_url}/v{client.api_version}/containers/{self._container}/stats"
        response: requests.Response = client.get(url, params=params, stream=True)
        return response

    def _add(self, stats: dict[str, Any]) -> None:
        for name, value in totals(stats).items():
            # All but memory only grow; a container that ends is told with zeros.
            self._found = {**self._found, name: max(self._found.get(name, 0), value)}
