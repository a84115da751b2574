"""The API server: the only place that calls the Kubernetes SDK."""

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from kubernetes import client, config
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from cellwork.errors import EngineUnavailable

from . import refusals
from .limiter import Limiter
from .objects import Pod, PodList, Refusal, WatchEvent

logger = logging.getLogger("cellwork.worker")

#: Seconds for a connection, and for an answer.
_CONNECT, _ANSWER = 5.0, 30.0

#: Seconds after which the server ends a watch by itself; a load balancer in between may do so sooner.
_WATCH = 300

#: Tries of a request that meets a moment's trouble, and seconds before the second; doubled for each further one.
_TRIES, _PAUSE, _LONGEST_PAUSE = 6, 0.25, 8.0

#: Of a line in a watch, far above the largest pod that etcd takes (1.5 MiB).
_EVENT_BYTES = 4 << 20

_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "cellwork"}

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, said: Refusal) -> None:
        super().__init__(said.message)
        self.status = status
        self.said = said


class Api:
    """A client that connects on first use: with the service account inside a cluster, else with KUBECONFIG."""

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
        self._connection()
        return self._namespace

    @property
    def address(self) -> str:
        """Where the API server is expected.

        Raises:
            EngineUnavailable
        """
        return str(self._connection()[0].host)

    def version(self) -> str:
        """Such as ``v1.36.1``.

        Raises:
            EngineUnavailable, Refused
        """
        return str(msgspec.json.decode(self._ask("version", "GET", "/version").data).get("gitVersion"))

    def cluster(self) -> str:
        """An id that the cluster keeps: the uid of its namespace ``kube-system``, or else its address.

        Raises:
            EngineUnavailable
        """
        try:
            answer = self._ask("get namespace", "GET", "/api/v1/namespaces/kube-system")
            return msgspec.json.decode(answer.data, type=Pod).metadata.uid
        except Refused:
            return self.address  # a role for one namespace cannot see another

    def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> Pod:
        """Raises EngineUnavailable, Refused (409: there is one of that name)."""
        answer = self._ask("create pod", "POST", _path(namespace, "pods"), body=manifest)
        return msgspec.json.decode(answer.data, type=Pod)

    def create_secret(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Raises EngineUnavailable, Refused (409: there is one of that name)."""
        self._ask("create secret", "POST", _path(namespace, "secrets"), body=manifest)

    def pod(self, namespace: str, name: str) -> Pod | None:
        """None: there is no such pod. Raises EngineUnavailable, Refused."""
        try:
            answer = self._ask("get pod", "GET", _path(namespace, "pods", name))
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return msgspec.json.decode(answer.data, type=Pod)

    def delete_pod(self, namespace: str, name: str, grace: int | None = None) -> bool:
        """False: there is no such pod. Raises EngineUnavailable, Refused.

        `grace`: seconds between the signal that asks and the kill; None: as its spec says.
        """
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        try:
            self._ask("delete pod", "DELETE", _path(namespace, "pods", name), body=body)
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def pods(self, namespace: str, selector: str) -> PodList:
        """Raises EngineUnavailable, Refused."""
        answer = self._ask("list pods", "GET", _path(namespace, "pods"), {"labelSelector": selector})
        return msgspec.json.decode(answer.data, type=PodList)

    def watch(self, namespace: str, selector: str, version: str) -> Iterator[WatchEvent]:
        """What happens from `version` on, until the server ends it. Raises EngineUnavailable, Refused."""
        query = {
            "labelSelector": selector,
            "resourceVersion": version,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH),
        }
        patience = _WATCH + _ANSWER
        response = self._ask(
            "watch pods", "GET", _path(namespace, "pods"), query, patience=patience, tries=1, stream=True
        )
        try:
            held = b""
            while data := response.read1(1 << 16):
                *lines, held = (held + data).split(b"\n")
                for line in lines:
                    if line:
                        yield msgspec.json.decode(line, type=WatchEvent)
                if len(held) > _EVENT_BYTES:
                    raise EngineUnavailable(f"the API server's watch sends more than {_EVENT_BYTES} bytes in one event")
        except (HTTPError, OSError, msgspec.DecodeError) as error:
            raise EngineUnavailable(f"the watch of namespace {namespace} broke off: {error}") from error
        finally:
            response.close()

    def log(
        self, namespace: str, name: str, container: str, *, follow: bool, tail: int | None = None
    ) -> BaseHTTPResponse:
        """A container's output, from its beginning or its last `tail` lines. Raises EngineUnavailable, Refused."""
        query = {"container": container, "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        verb = "follow log" if follow else "read log"
        return self._ask(verb, "GET", f"{_path(namespace, 'pods', name)}/log", query, patience=None, stream=True)

    def may(self, namespace: str, verb: str, resource: str, subresource: str = "") -> bool:
        """Whether the cluster's roles allow this worker that. Raises EngineUnavailable, Refused."""
        asked = {"namespace": namespace, "verb": verb, "resource": resource, "subresource": subresource}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._ask("review access", "POST", path, body={"spec": {"resourceAttributes": asked}})
        return bool(msgspec.json.decode(answer.data)["status"]["allowed"])

    def _connection(self) -> tuple[client.Configuration, PoolManager]:
        with self._lock:
            if self._settings is None or self._pool is None:
                self._settings = self._configuration()
                # The SDK knows how to trust the server and how to prove who we are. Its calls are not used: each
                # checks and copies the object field by field, which costs more than the request.
                self._pool = client.ApiClient(self._settings).rest_client.pool_manager
            return self._settings, self._pool

    def _configuration(self) -> client.Configuration:
        settings = client.Configuration()
        try:
            if _NAMESPACE_FILE.exists():
                config.load_incluster_config(client_configuration=settings)
                self._namespace = _NAMESPACE_FILE.read_text().strip()
            else:
                # The SDK looks at the variable only once, when it is imported.
                files = os.environ.get("KUBECONFIG")
                config.load_kube_config(files, context=self._context, client_configuration=settings)
                contexts, current = config.list_kube_config_contexts(files)
                chosen = next((c for c in contexts if c["name"] == self._context), current)
                self._namespace = chosen["context"].get("namespace") or "default"
        except (config.ConfigException, OSError) as error:
            raise EngineUnavailable(
                f"no Kubernetes cluster is configured: {str(error).rstrip('.')}. Set KUBECONFIG, or run "
                f"the worker inside the cluster with a service account"
            ) from error
        settings.connection_pool_maxsize = self._connections
        return settings

    def _ask(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        patience: float | None = _ANSWER,
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
        settings, pool = self._connection()
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

    def _pause(self, number: int, verb: str, why: str, asked: str | None) -> None:
        seconds = min(_LONGEST_PAUSE, _PAUSE * 2 ** (number - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        if asked is not None and asked.isdigit():
            seconds = max(seconds, min(float(asked), _LONGEST_PAUSE))
        logger.info("the API server cannot %s now (%s); again in %.1f s", verb, why, seconds)
        time.sleep(seconds)


def _credentials(settings: client.Configuration) -> dict[str, str]:
    """A token may be renewed at any time; the SDK sees to that. Without one, TLS says who we are."""
    auth: Any = settings.auth_settings()
    return {one["key"]: one["value"] for one in auth.values()}


def _path(namespace: str, kind: str, name: str = "") -> str:
    """Names are checked where they are said, and quoted all the same: nothing in one may lead to another path."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/{kind}" + (f"/{quote(name, safe='')}" if name else "")
