"""The connection to the engine, and its errors as ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import requests
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from cellwork.errors import EngineUnavailable

#: Seconds that the engine may take for one answer. Under load it takes seconds for a start.
ANSWER_TIMEOUT = 60

#: Connections kept open. Every running sandbox holds one (its attached streams) and needs others for moments.
MAX_CONNECTIONS = 256


class Engine:
    """A client that connects on first use, from the usual variables (DOCKER_HOST, DOCKER_TLS_VERIFY, …)."""

    def __init__(self, base_url: str | None = None) -> None:
        """`base_url`: as docker-py takes it; default: the environment's, else the local socket."""
        self._settings = kwargs_from_env()
        if base_url is not None:
            self._settings["base_url"] = base_url
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None

    @property
    def address(self) -> str:
        """Where the engine is expected."""
        return str(self._settings.get("base_url") or "unix:///var/run/docker.sock")

    @property
    def plain(self) -> bool:
        """Its streams are sockets of the kernel's, without TLS or SSH around them."""
        return not self._settings.get("tls") and not self.address.startswith(("https", "ssh"))

    @property
    def client(self) -> docker.APIClient:
        """The connected client; safe to use from many threads.

        Raises:
            EngineUnavailable: no engine answers.
        """
        with self._lock:
            if self._client is None:
                with self.errors("to connect"):
                    self._client = docker.APIClient(
                        version="auto", timeout=ANSWER_TIMEOUT, max_pool_size=MAX_CONNECTIONS, **self._settings
                    )
            return self._client

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn "no answer" into `EngineUnavailable`. What the engine does answer (`APIError`) passes through."""
        try:
            yield
        except APIError:
            raise
        except (requests.RequestException, DockerException, OSError) as error:
            raise EngineUnavailable(
                f"no Docker engine answers at {self.address}, {doing}: {error}. Start it (Debian: apt-get install "
                f"docker.io; dockerd), or name another one in DOCKER_HOST"
            ) from error


def answer(error: APIError) -> str:
    """What the engine said, without the SDK's wrapping."""
    return str(error.explanation or error)
