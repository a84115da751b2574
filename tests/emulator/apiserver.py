"""An API server, as far as the executor uses one, with faults to order. Behind it, a node runs the pods."""

import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from emulator.store import Conflict, Expired, Missing, Object, Store, now

_OBJECTS = re.compile(r"/api/v1/namespaces/([^/]+)/(pods|secrets|events)(?:/([^/]+))?(?:/(log|eviction))?")
_METRICS = re.compile(r"/apis/metrics\.k8s\.io/v1beta1/namespaces/([^/]+)/pods")
_NAMESPACES = re.compile(r"/api/v1/namespaces/([^/]+)")
_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_SECRET_BYTES = 1 << 20

#: Who may do all; everybody else may do what a dispatcher may.
ADMIN = "Bearer admin"

_RBAC = Path(__file__).parents[2] / "k8s/base/rbac.yaml"


def dispatchers_rights() -> set[tuple[str, str]]:
    """Verbs and resources that k8s/ gives a worker; of groups other than the core, with its name."""
    (role,) = [one for one in yaml.safe_load_all(_RBAC.read_text()) if one["kind"] == "Role"]
    return {
        (verb, ".".join(filter(None, (what, *rule["apiGroups"]))))
        for rule in role["rules"]
        for what in rule["resources"]
        for verb in rule["verbs"]
    }


@dataclass
class Fault:
    """What the next requests of a kind meet."""

    method: str = ""
    path: str = ""
    times: int = 1
    status: int = 0
    message: str = "made to fail"
    headers: dict[str, str] = field(default_factory=dict)
    #: Seconds before the answer.
    delay: float = 0.0
    #: The connection is closed without an answer.
    drop: bool = False
    #: A list shows what was there when the fault was made.
    stale: list[Object] | None = None

    def meets(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


class ApiServer:
    """Serves on a port of its own until `close`."""

    def __init__(
        self, logs: Callable[[Object, bool, int | None], Iterable[bytes]], tls: ssl.SSLContext | None = None
    ) -> None:
        """`logs`: gives a pod's output: pod, whether to follow it, at most so many last lines."""
        self.store = Store()
        self.logs = logs
        #: As metrics-server: gives what the pods of a namespace use. None: there is none.
        self.metrics: Callable[[str], list[Object]] | None = None
        self.requests: Counter[str] = Counter()
        #: By version, how often a watch was told of it.
        self.bookmarks: Counter[str] = Counter()
        rights = dispatchers_rights()
        self.allowed: Callable[[str, str], bool] = lambda verb, resource: (verb, resource) in rights
        #: Verbs and resources that were asked for and allowed.
        self.used: set[tuple[str, str]] = set()
        #: By which callers proved who they are.
        self.tokens: set[str | None] = set()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._generation = 0
        self._connections: set[socket.socket] = set()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self._serving: threading.Thread | None = None
        self.restart()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inject(self, **fault: Any) -> Fault:
        with self._lock:
            self._faults.append(made := Fault(**fault))
            return made

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for one in self._faults:
                if one.meets(method, path):
                    one.times -= 1
                    return one
        return None

    def watching(self) -> Callable[[], bool]:
        """True once the watches that there are now are to end."""
        generation = self._generation
        return lambda: self._generation != generation

    def drop(self) -> None:
        """Cut every connection, in the middle of whatever it carries."""
        self._generation += 1
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.store.changed:
            self.store.changed.notify_all()

    def stop(self) -> None:
        """Answer nobody until `restart`."""
        self._http.refusing = True
        self.drop()

    def restart(self) -> None:
        self._http.refusing = False
        if self._serving is None:
            self._serving = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
            self._serving.start()

    def close(self) -> None:
        self.stop()
        self._http.shutdown()
        self._http.server_close()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    owner: ApiServer
    refusing = False


class Denied(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, message: str, reason: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reason, self.headers = status, message, reason, headers or {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.owner.opened(self.connection)

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()
        self.server.owner.closed(self.connection)

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError):
            super().handle()

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        owner = self.server.owner
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        kind = url.path.rsplit("/", 1)[-1]
        if url.path.startswith("/apis/metrics"):
            kind = "metrics"
        elif query.get("watch") in ("true", "True"):
            kind = "watch" if kind == "pods" else f"watch {kind}"
        known = ("watch", "watch events", "log", "pods", "secrets", "events", "metrics")
        owner.requests[f"{method} {kind if kind in known else 'one'}"] += 1
        owner.tokens.add(self.headers.get("Authorization"))
        fault = owner.fault(method, self.path)
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
        if self.server.refusing or (fault is not None and fault.drop):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        try:
            if fault is not None and fault.status:
                raise Denied(fault.status, fault.message, headers=fault.headers)
            self._route(method, url.path, query, body, fault)
        except Denied as denied:
            self._answer(
                denied.status,
                {"kind": "Status", "status": "Failure", "message": denied.message, "code": denied.status},
                denied.headers,
            )

    def _route(self, method: str, path: str, query: dict[str, str], body: Object, fault: Fault | None) -> None:
        owner = self.server.owner
        if path == "/version":
            return self._answer(200, {"gitVersion": "v1.36.0-emulated"})
        if path.endswith("/selfsubjectaccessreviews"):
            return self._review(body["spec"]["resourceAttributes"])
        if (match := _OBJECTS.fullmatch(path)) is not None:
            return self._objects(method, *match.groups(), query=query, body=body, fault=fault)
        if (match := _METRICS.fullmatch(path)) is not None:
            return self._metrics(match[1])
        if (match := _NAMESPACES.fullmatch(path)) is not None:
            self._authorize(method, "namespaces", match[1], None, query)
            return self._answer(200, {"kind": "Namespace", "metadata": {"name": match[1], "uid": f"uid-{owner.port}"}})
        raise Denied(404, f"the server could not find the requested resource {path}")

    def _objects(
        self,
        method: str,
        namespace: str,
        kind: str,
        name: str | None,
        sub: str | None,
        query: dict[str, str],
        body: Object,
        fault: Fault | None,
    ) -> None:
        self._authorize(method, kind, name, sub, query)
        if name is None:
            if method == "POST":
                return self._create(kind, namespace, body)
            if query.get("watch") in ("true", "True"):
                return self._watch(kind, namespace, query)
            return self._list(kind, namespace, query, fault)
        if sub == "log":
            return self._log(namespace, name, query)
        if sub == "eviction":
            return self._evict(namespace, name)
        return self._one(method, kind, namespace, name, {**query, **body})

    def _review(self, asked: Object) -> None:
        resource = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        self._answer(201, {"status": {"allowed": self.server.owner.allowed(asked["verb"], resource)}})

    def _metrics(self, namespace: str) -> None:
        if (metrics := self.server.owner.metrics) is None:
            raise Denied(404, "the server could not find the requested resource")
        self._authorize("GET", "pods.metrics.k8s.io", None, None, {})
        self._answer(200, {"kind": "PodMetricsList", "items": metrics(namespace)})

    def _authorize(self, method: str, kind: str, name: str | None, sub: str | None, query: dict[str, str]) -> None:
        whole = "watch" if query.get("watch") in ("true", "True") else "list"
        verb = {"POST": "create", "DELETE": "delete"}.get(method, whole if name is None else "get")
        resource, owner = f"{kind}/{sub}" if sub else kind, self.server.owner
        if self.headers.get("Authorization") == ADMIN:
            return
        if not owner.allowed(verb, resource):
            raise Denied(403, f'{kind} is forbidden: User "dispatcher" cannot {verb} resource "{resource}"')
        owner.used.add((verb, resource))

    def _create(self, kind: str, namespace: str, body: Object) -> None:
        name = body["metadata"]["name"]
        for key, value in (body["metadata"].get("labels") or {}).items():
            if not _LABEL.fullmatch(value):
                raise Denied(422, f'Pod "{name}" is invalid: metadata.labels: Invalid value: "{value}" of {key}')
        if kind == "pods":
            body.setdefault("status", {"phase": "Pending"})
            body["spec"].setdefault("terminationGracePeriodSeconds", 30)
        elif sum(len(value) * 3 // 4 for value in body.get("data", {}).values()) > _SECRET_BYTES:
            raise Denied(422, f'Secret "{name}" is invalid: data: Too long: may not be more than {_SECRET_BYTES} bytes')
        try:
            self._answer(201, self.server.owner.store.create(kind, namespace, body))
        except Conflict:
            raise Denied(409, f'{kind} "{name}" already exists') from None

    def _one(self, method: str, kind: str, namespace: str, name: str, body: Object) -> None:
        store = self.server.owner.store
        try:
            answer = store.get(kind, namespace, name) if method == "GET" else self._delete_pod(namespace, name, body)
        except Missing:
            raise Denied(404, f'{kind} "{name}" not found') from None
        self._answer(200, answer)

    def _delete_pod(self, namespace: str, name: str, body: Object) -> Object:
        store = self.server.owner.store
        there = store.get("pods", namespace, name)
        if body.get("preconditions", {}).get("uid") not in (None, there["metadata"]["uid"]):
            raise Denied(409, "Precondition failed: UID in precondition is another")
        asked = None if (given := body.get("gracePeriodSeconds")) is None else int(given)
        grace = there["spec"]["terminationGracePeriodSeconds"] if asked is None else asked
        if grace == 0 or not there["spec"].get("nodeName"):
            store.remove("pods", namespace, name)
            return there

        def mark(pod: Object) -> None:
            earlier = pod["metadata"].get("deletionGracePeriodSeconds", grace)
            pod["metadata"]["deletionTimestamp"] = pod["metadata"].get("deletionTimestamp") or now()
            pod["metadata"]["deletionGracePeriodSeconds"] = min(earlier, grace)

        return store.update("pods", namespace, name, mark)

    def _evict(self, namespace: str, name: str) -> None:
        why = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}

        def mark(pod: Object) -> None:
            pod["status"].setdefault("conditions", []).append({"type": "DisruptionTarget", "status": "True", **why})

        try:
            self.server.owner.store.update("pods", namespace, name, mark)
            self._delete_pod(namespace, name, {})
        except Missing:
            raise Denied(404, f'pods "{name}" not found') from None
        self._answer(201, {"kind": "Status", "status": "Success", "code": 201})

    def _list(self, kind: str, namespace: str, query: dict[str, str], fault: Fault | None) -> None:
        found, version = self.server.owner.store.listed(kind, namespace)
        if fault is not None and fault.stale is not None:
            found = fault.stale
        items = [one for one in found if _selected(one, query)]
        if "limit" in query:
            items = items[: int(query["limit"])]
        self._answer(200, {"kind": "PodList", "metadata": {"resourceVersion": str(version)}, "items": items})

    def _watch(self, kind: str, namespace: str, query: dict[str, str]) -> None:
        owner = self.server.owner
        until = owner.watching()
        self._begin_chunks()
        try:
            for type_, what in owner.store.watch(kind, namespace, int(query["resourceVersion"]), until):
                if type_ == "BOOKMARK" or _selected(what, query):
                    self._chunk(json.dumps({"type": type_, "object": what}).encode() + b"\n")
                if type_ == "BOOKMARK":
                    owner.bookmarks[what["metadata"]["resourceVersion"]] += 1
        except Expired:
            gone = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}
            self._chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
        self._chunk(b"")

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> None:
        owner = self.server.owner
        try:
            pod = owner.store.get("pods", namespace, name)
        except Missing:
            raise Denied(404, f'pods "{name}" not found') from None
        follow = query.get("follow") in ("true", "True")
        try:
            output = owner.logs(pod, follow, int(query["tailLines"]) if "tailLines" in query else None)
        except Missing:
            raise Denied(400, f'container "task" in pod "{name}" is waiting to start: ContainerCreating') from None
        self._begin_chunks()
        for piece in output:
            if piece:
                self._chunk(piece)
        self._chunk(b"")

    def _answer(self, status: int, what: Object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _selected(what: Object, query: dict[str, str]) -> bool:
    labels = what["metadata"].get("labels") or {}
    about = what.get("involvedObject", {})
    fields = {"reason": what.get("reason"), **{f"involvedObject.{name}": value for name, value in about.items()}}
    return all(
        known.get(key) == value
        for known, selector in ((labels, query.get("labelSelector", "")), (fields, query.get("fieldSelector", "")))
        for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )
