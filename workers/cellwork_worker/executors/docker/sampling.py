"""What a command's container uses, from the engine's figures of every second: it has no runner that would tell."""

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

#: Seconds until the engine is asked at all: a shorter run costs it nothing, and has no figures.
_BEGIN = 0.5


class Sampling:
    """Of one container, from a thread of its own that ends with the container."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self._container = container
        self._over = threading.Event()
        self._found: dict[str, float] = {}
        threading.Thread(target=self._follow, name=f"usage of {container[:12]}", daemon=True).start()

    def end(self) -> Mapping[str, float]:
        """What was found, as of the last second; the names are those of the runner's frame `usage`."""
        self._over.set()
        return self._found

    def _follow(self) -> None:
        if self._over.wait(_BEGIN):
            return
        client = self._engine.client
        try:
            url = f"{client.base_url}/v{client.api_version}/containers/{self._container}/stats"
            with client.get(url, params={"stream": "1"}, stream=True) as response:
                for line in response.iter_lines():
                    if self._over.is_set() or not response.ok:
                        return
                    self._add(json.loads(line))
        except (requests.RequestException, DockerException, APIError, ValueError) as error:
            logger.info("what container %s uses is not known from here on: %s", self._container[:12], error)

    def _add(self, stats: dict[str, Any]) -> None:
        for name, value in totals(stats).items():
            # All but memory only grow; a container that ends is told with zeros.
            self._found = {**self._found, name: max(self._found.get(name, 0), value)}
