"""The connection to the engine, and its errors as ours."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from cellwork.errors import EngineUnavailable

from .client import Client
from .sockets import knock, pool_connections
from .tunnel import Tunnel

_Answer = TypeVar("_Answer")

#: Seconds that the engine may take for one answer. Under load it takes seconds for a start.
ANSWER_TIMEOUT = 60

#: Connections kept open. Every running sandbox holds one (its attached streams) and needs others for moments.
MAX_CONNECTIONS = 256

#: Seconds between tries of a question whose connection broke, as when the engine restarts. After that, the whole task
#: is tried again, which may take longer and logs its output a second time.
_PAUSES = 0.1, 0.5, 2.0

#: Parts of an error that are looked at for what the system said.
_DEEPEST = 50


class Engine:
    """A client that connects on first use, from the usual variables (DOCKER_HOST, DOCKER_TLS_VERIFY, …)."""

    def __init__(self, base_url: str | None = None) -> None:
        """`base_url`: as docker-py takes it; default: the environment's, else the local socket."""
        self._settings = kwargs_from_env()
        if base_url is not None:
            self._settings["base_url"] = base_url
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._tunnel: Tunnel | None = None
        #: It is a Podman that speaks Docker's API. Known once `client` has connected.
        self.podman = False
        #: How often a question went unanswered.
        self.breaks = 0

    @property
    def address(self) -> str:
        """Where the engine is expected."""
        return str(self._settings.get("base_url") or "unix:///var/run/docker.sock")

    @property
    def plain(self) -> bool:
        """Its streams are sockets of the kernel's, without TLS around them."""
        return not self._settings.get("tls") and not self.address.startswith("https")

    @property
    def client(self) -> docker.APIClient:
        """The connected client; safe to use from many threads.

        Raises:
            EngineUnavailable: no engine answers.
        """
        with self._lock:
            if self._client is None or self._tunnel is not None:
                with self.errors("to connect"):
                    self._connect()
            assert self._client is not None
            return self._client

    def _connect(self) -> None:
        settings: dict[str, Any] = {
            **self._settings,
            "version": "auto",
            "timeout": ANSWER_TIMEOUT,
            "max_pool_size": MAX_CONNECTIONS,
        }
        if self.address.startswith("ssh://"):
            self._tunnel = self._tunnel or Tunnel(self.address)
            self._tunnel.open()
            settings["base_url"] = self._tunnel.url
        if self._client is not None:
            return
        try:
            client = Client(**settings)
            pool_connections(client, ANSWER_TIMEOUT, MAX_CONNECTIONS)
            client.go_direct(MAX_CONNECTIONS)
            self.podman = any(part.get("Name") == "Podman Engine" for part in client.version().get("Components") or ())
            self._client = client
        except (requests.RequestException, DockerException) as error:
            if self._tunnel is None:
                raise
            refused = f"SSH connects, but nothing answers at {self._tunnel.path} on that host ({_why(error)})"
            raise ConnectionError(errno.ECONNREFUSED, refused) from error

    def ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Its answer to what may be asked more than once, and is where the connection breaks.

        Raises:
            requests.RequestException: it broke again and again.
        """
        for pause in _PAUSES:
            try:
                return question()
            except requests.HTTPError:
                raise  # an answer, too
            except requests.RequestException:
                self.breaks += 1
                time.sleep(pause)
        return question()

    def signal(self, container: str, name: str) -> None:
        """Send a container's first process a signal, such as ``SIGTERM``; nothing happens where it does not run.

        Raises:
            APIError: the engine refuses.
        """
        try:
            self.client.kill(container, name)
        except APIError as error:
            if not not_running(error):
                raise

    def knock(self) -> None:
        """See whether it takes new connections: one that is about to end answers on old ones, and what it says then
        is about itself.

        Raises:
            requests.ConnectionError: it takes none.
        """
        knock(self.client, ANSWER_TIMEOUT)

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn "no answer" into `EngineUnavailable`. What the engine does answer (`APIError`) passes through."""
        try:
            yield
        except APIError:
            raise
        except (requests.RequestException, DockerException, OSError) as error:
            raise EngineUnavailable(
                f"no Docker engine answers at {self.address}, {doing}: {_why(error)}. Start it (Debian: apt-get "
                f"install docker.io; dockerd), or name another one in DOCKER_HOST"
            ) from error


def _why(error: BaseException) -> str:
    """What the system said, out of the SDK's wrapping, which quotes one exception inside another."""
    seen: list[object] = [error]
    for one in seen:  # grows
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
        if isinstance(one, BaseException) and len(seen) < _DEEPEST:
            seen += [*one.args, one.__cause__, one.__context__]
    return str(error)


def name_taken(error: APIError) -> bool:
    """The name that was asked for is another container's. Docker says it with status 409, Podman with 500."""
    return "name" in answer(error) and "already in use" in answer(error)


def not_running(error: APIError) -> bool:
    """There is no such container, or it runs no more. Podman says the second in several ways."""
    said = answer(error)
    return (
        error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
        or "can only kill running containers" in said
        or "container state improper" in said
    )


def answer(error: APIError) -> str:
    """What the engine said, without the SDK's wrapping."""
    return str(error.explanation or error)
