"""Requests to the API server, at a bounded rate, made again where the trouble is a moment's; through the SDK's pool."""

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from kubernetes import client, config
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from cellwork.errors import EngineUnavailable

from . import refusals
from .limiter import Limiter
from .objects import Refusal

logger = logging.getLogger("cellwork.worker")

#: Seconds for a connection, and for an answer.
_CONNECT, ANSWER = 5.0, 30.0

#: Tries of a request that meets a moment's trouble, and seconds before the second; doubled for each further one.
_TRIES, _PAUSE, _LONGEST_PAUSE = 6, 0.25, 8.0

_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "cellwork"}

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, said: Refusal) -> None:
        super().__init__(said.message)
        self.status = status
        self.said = said


class Connection:
    """Opened on first use: with the service account inside a cluster, else with KUBECONFIG."""

    def __init__(self, *, context: str | None, rate: float, connections: int) -> None:
        """Args:
        context: of the kubeconfig; None: its current one.
        rate: requests a second, of which watches and followed logs are one each.
        connections: kept open.
        """
        self._context = context
        self._connections = connections
        self._limiter = Limiter(rate, max(1, int(2 * rate)))
        self._lock = threading.Lock()
        self._settings: client.Configuration | None = None
        self._pool: PoolManager | None = None
        self._namespace = "default"
        #: Requests made so far, by verb.
        self.calls: dict[str, int] = {}

    @property
    def namespace(self) -> str:
        """The service account's own, or the kubeconfig context's; ``default`` where neither names one.

        Raises:
            EngineUnavailable: there is no configuration.
        """
        self._open()
        return self._namespace

    @property
    def address(self) -> str:
        """Where the API server is expected.

        Raises:
            EngineUnavailable
        """
        return str(self._open()[0].host)

    def ask(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        patience: float | None = ANSWER,
        tries: int = _TRIES,
        stream: bool = False,
    ) -> BaseHTTPResponse:
        """Make a request, again where the trouble is a moment's.

        Args:
            verb: what it does, for people.
            method, path, query, body: as the API has it.
            patience: seconds of silence; None: as long as it takes.
            tries: how often.
            stream: give the answer before it is complete.

        Raises:
            EngineUnavailable, Refused
        """
        settings, pool = self._open()
        url = f"{settings.host}{path}" + (f"?{urlencode(query)}" if query else "")
        for number in range(1, tries + 1):
            self._limiter.acquire()
            self.calls[verb] = self.calls.get(verb, 0) + 1
            try:
                response = pool.request(
                    method,
                    url,
                    headers=_HEADERS | _credentials(settings),
                    body=None if body is None else msgspec.json.encode(body),
                    timeout=Timeout(connect=_CONNECT, read=patience),
                    # Its own repeats know nothing of Retry-After's bounds and of what may be repeated.
                    retries=False,
                    preload_content=not stream,
                )
                if response.status < HTTPStatus.BAD_REQUEST:
                    return response
                said = refusals.refusal(response.data)
            except (HTTPError, OSError) as error:
                if number == tries:
                    raise EngineUnavailable(
                        f"the API server at {settings.host} does not answer, to {verb}: {error}. Start the cluster, or "
                        f"correct KUBECONFIG"
                    ) from error
                self._pause(number, verb, str(error), None)
                continue
            if response.status not in refusals.TRANSIENT or number == tries:
                raise Refused(response.status, said)
            self._pause(number, verb, said.message, response.headers.get("Retry-After"))
        raise AssertionError("unreachable")

    def _open(self) -> tuple[client.Configuration, PoolManager]:
        with self._lock:
            if self._settings is None or self._pool is None:
                self._settings = self._configuration()
                # The SDK knows how to trust the server and how to prove who we are. Its calls are not used: each
                # checks and copies the object field by field, which costs more than the request.
                self._pool = client.ApiClient(self._settings).rest_client.pool_manager
            return self._settings, self._pool

    def _configuration(self) -> client.Configuration:
        settings = client.Configuration()
        # The SDK looks at the variable only once, when it is imported.
        files = os.environ.get("KUBECONFIG")
        try:
            if _NAMESPACE_FILE.exists():
                config.load_incluster_config(client_configuration=settings)
                self._namespace = _NAMESPACE_FILE.read_text().strip()
            else:
                config.load_kube_config(files, context=self._context, client_configuration=settings)
                contexts, current = config.list_kube_config_contexts(files)
                chosen = next((c for c in contexts if c["name"] == self._context), current)
                self._namespace = chosen["context"].get("namespace") or "default"
        except (config.ConfigException, OSError) as error:
            where = f" (KUBECONFIG={files})" if files else ""
            raise EngineUnavailable(
                f"no Kubernetes cluster is configured{where}: {str(error).rstrip('.')}. "
                f"Set KUBECONFIG, or run the worker inside the cluster with a service account"
            ) from error
        settings.connection_pool_maxsize = self._connections
        return settings

    def _pause(self, number: int, verb: str, why: str, asked: str | None) -> None:
        seconds = min(_LONGEST_PAUSE, _PAUSE * 2 ** (number - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        if asked is not None and asked.isdecimal():
            seconds = max(seconds, min(float(asked), _LONGEST_PAUSE))
        logger.info("the API server cannot %s now (%s); again in %.1f s", verb, why, seconds)
        time.sleep(seconds)


def _credentials(settings: client.Configuration) -> dict[str, str]:
    """A token may be renewed at any time; the SDK sees to that. Without one, TLS says who we are."""
    auth: Any = settings.auth_settings()
    return {one["key"]: one["value"] for one in auth.values()}
