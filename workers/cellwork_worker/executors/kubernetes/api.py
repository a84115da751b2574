"""What is asked of the API server."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from cellwork.errors import EngineUnavailable

from .connection import ANSWER, Connection, Refused
from .objects import Pod, PodList, PodMetrics, PodMetricsList, WatchEvent

#: Seconds after which the server ends a watch by itself; a load balancer in between may do so sooner.
_WATCH = 300

#: Of a line in a watch, far above the largest pod that etcd takes (1.5 MiB).
_EVENT_BYTES = 4 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """What a list and a watch look at."""

    #: ``pods``, ``events`` …
    kind: str
    namespace: str
    #: Which of them: ``labelSelector``, ``fieldSelector``.
    query: Mapping[str, str] = field(default_factory=dict)


class Api:
    """Connects on first use."""

    def __init__(self, *, context: str | None, rate: float, connections: int) -> None:
        """See `Connection`."""
        self._connection = Connection(context=context, rate=rate, connections=connections)

    @property
    def namespace(self) -> str:
        """See `Connection`. Raises EngineUnavailable."""
        return self._connection.namespace

    @property
    def address(self) -> str:
        """See `Connection`. Raises EngineUnavailable."""
        return self._connection.address

    @property
    def calls(self) -> dict[str, int]:
        """Requests made so far, by verb."""
        return self._connection.calls

    def version(self) -> str:
        """Such as ``v1.36.1``.

        Raises:
            EngineUnavailable, Refused
        """
        return str(msgspec.json.decode(self._connection.ask("version", "GET", "/version").data).get("gitVersion"))

    def cluster(self) -> str:
        """An id that the cluster keeps: the uid of its namespace ``kube-system``, or else its address.

        Raises:
            EngineUnavailable
        """
        try:
            answer = self._connection.ask("get namespace", "GET", "/api/v1/namespaces/kube-system")
            return msgspec.json.decode(answer.data, type=Pod).metadata.uid
        except Refused:
            return self.address  # a role for one namespace cannot see another

    def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> Pod:
        """Raises EngineUnavailable, Refused (409: there is one of that name)."""
        answer = self._connection.ask("create pod", "POST", _path(namespace, "pods"), body=manifest)
        return msgspec.json.decode(answer.data, type=Pod)

    def create_secret(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Raises EngineUnavailable, Refused (409: there is one of that name)."""
        self._connection.ask("create secret", "POST", _path(namespace, "secrets"), body=manifest)

    def pod(self, namespace: str, name: str) -> Pod | None:
        """None: there is no such pod. Raises EngineUnavailable, Refused."""
        try:
            answer = self._connection.ask("get pod", "GET", _path(namespace, "pods", name))
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return msgspec.json.decode(answer.data, type=Pod)

    def delete_pod(self, namespace: str, name: str, grace: int | None = None, uid: str = "") -> bool:
        """False: there is no such pod.

        Args:
            namespace, name: where it is.
            grace: seconds between the signal that asks and the kill; None: as its spec says.
            uid: of the one that is meant; empty: whichever has the name.

        Raises:
            EngineUnavailable
            Refused: among others with 409, another pod has the name.
        """
        body: dict[str, Any] = {} if grace is None else {"gracePeriodSeconds": grace}
        body |= {"preconditions": {"uid": uid}} if uid else {}
        try:
            self._connection.ask("delete pod", "DELETE", _path(namespace, "pods", name), body=body)
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def pods(self, namespace: str, selector: str) -> PodList:
        """Those with the labels of `selector`. Raises EngineUnavailable, Refused."""
        return self.listed(Selection("pods", namespace, {"labelSelector": selector}), PodList)

    def listed(self, selection: Selection, answer: type[T], limit: int | None = None) -> T:
        """All of a selection, or its first `limit`; `answer`: the list's type. Raises EngineUnavailable, Refused."""
        query = dict(selection.query) if limit is None else {**selection.query, "limit": str(limit)}
        path = _path(selection.namespace, selection.kind)
        return msgspec.json.decode(self._connection.ask(f"list {selection.kind}", "GET", path, query).data, type=answer)

    def watch(self, selection: Selection, version: str) -> Iterator[WatchEvent]:
        """What happens from `version` on, until the server ends it. Raises EngineUnavailable, Refused."""
        query = {
            **selection.query,
            "resourceVersion": version,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH),
        }
        path = _path(selection.namespace, selection.kind)
        verb, patience = f"watch {selection.kind}", _WATCH + ANSWER
        response = self._connection.ask(verb, "GET", path, query, patience=patience, tries=1, stream=True)
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
            what = f"the watch of {selection.kind} in namespace {selection.namespace}"
            raise EngineUnavailable(f"{what} broke off: {error}") from error
        finally:
            response.close()

    def metrics(self, namespace: str, selector: str) -> tuple[PodMetrics, ...]:
        """What pods use, where the cluster has metrics-server. Raises EngineUnavailable, Refused (404: it has none)."""
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{quote(namespace, safe='')}/pods"
        answer = self._connection.ask("list metrics", "GET", path, {"labelSelector": selector}, tries=1)
        return msgspec.json.decode(answer.data, type=PodMetricsList).items

    def log(
        self, namespace: str, name: str, container: str, *, follow: bool, tail: int | None = None
    ) -> BaseHTTPResponse:
        """A container's output, from its beginning or its last `tail` lines. Raises EngineUnavailable, Refused."""
        query = {"container": container, "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        verb, path = "follow log" if follow else "read log", f"{_path(namespace, 'pods', name)}/log"
        return self._connection.ask(verb, "GET", path, query, patience=None, stream=True)

    def may(self, namespace: str, verb: str, resource: str, subresource: str = "") -> bool:
        """Whether the cluster's roles allow this worker that. Raises EngineUnavailable, Refused."""
        asked = {"namespace": namespace, "verb": verb, "resource": resource, "subresource": subresource}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._connection.ask("review access", "POST", path, body={"spec": {"resourceAttributes": asked}})
        return bool(msgspec.json.decode(answer.data)["status"]["allowed"])


def _path(namespace: str, kind: str, name: str = "") -> str:
    """Names are checked where they are said, and quoted all the same: nothing in one may lead to another path."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/{kind}" + (f"/{quote(name, safe='')}" if name else "")
