"""An API server for kubectl: keeps objects of the kinds that k8s/ has, and takes only what their schemas allow.

Nothing runs what it is given; the server that has nodes is emulator.apiserver.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
from emulator import protobuf
from httpserver import answering

Object = dict[str, Any]

#: By group and version. A star: it belongs to no namespace.
KINDS = {
    "v1": ("Namespace*", "ConfigMap", "LimitRange", "ResourceQuota", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
    "keda.sh/v1alpha1": ("ScaledObject", "TriggerAuthentication"),
    "kueue.x-k8s.io/v1beta1": ("ClusterQueue*", "LocalQueue", "ResourceFlavor*"),
}

#: Groups of operators, whose schemas are not part of Kubernetes.
CUSTOM = ("keda.sh/", "kueue.x-k8s.io/")

_VERSION = "1.30"

_OBJECT = re.compile(
    r"/(?:api|apis)/(?P<group>.+?)(?:/namespaces/(?P<space>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)


def plural(kind: str) -> str:
    lower = kind.lower()
    return lower[:-1] + "ies" if lower.endswith("y") else lower + "s"


def _base(group: str) -> str:
    return f"{'apis' if '/' in group else 'api'}/{group}"


def _discovery() -> dict[str, Object]:
    """What a client asks before anything else, by path."""
    groups = [{"groupVersion": one, "version": one.partition("/")[2]} for one in KINDS if "/" in one]
    found: dict[str, Object] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": one["groupVersion"].partition("/")[0], "versions": [one], "preferredVersion": one}
                for one in groups
            ],
        },
        "/openapi/v3": {
            "paths": {_base(group): {"serverRelativeURL": f"/openapi/v3/{_base(group)}"} for group in KINDS}
        },
    }
    for group, kinds in KINDS.items():
        found[f"/{_base(group)}"] = {
            "kind": "APIResourceList",
            "groupVersion": group,
            "resources": [_resource(kind.rstrip("*"), not kind.endswith("*")) for kind in kinds],
        }
        found[f"/openapi/v3/{_base(group)}"] = {
            "openapi": "3.0.0",
            "info": {"title": "emulated", "version": _VERSION},
            "paths": dict(_paths(group, kinds)),
        }
    return found


def _resource(kind: str, namespaced: bool) -> Object:
    verbs = ["create", "delete", "get", "list", "patch"]
    return {"name": plural(kind), "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


def _paths(group: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, Object]]:
    """So that kubectl leaves it to the server to validate."""
    name, _, version = group.rpartition("/")
    for kind in kinds:
        it = {"group": name, "version": version, "kind": kind.rstrip("*")}
        patch = {"parameters": [{"name": "fieldValidation", "in": "query"}], "x-kubernetes-group-version-kind": it}
        yield f"/{_base(group)}/{plural(it['kind'])}/{{name}}", {"patch": patch}


class Refused(Exception):
    """An answer that is not 2xx: status, reason, message."""


class ObjectServer(ThreadingHTTPServer):
    """`objects` is what it keeps: by kind, namespace (empty: none) and name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.discovery = _discovery()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, given: Object | None) -> tuple[int, Object]:
        """Status and document.

        Raises:
            Refused
        """
        if method == "GET" and path in self.discovery:
            return 200, self.discovery[path]
        found = _OBJECT.fullmatch(path)
        kinds = [one.rstrip("*") for one in KINDS.get(found["group"], ())] if found else []
        kind = next((one for one in kinds if found and plural(one) == found["plural"]), None)
        if found is None or kind is None:
            raise Refused(404, "NotFound", f"the server could not find the requested resource {path}")
        space, name = found["space"] or "", found["name"]
        with self.lock:
            if method == "POST" and given is not None:
                return 201, self._create(kind, space, given)
            if method == "GET" and name is not None:
                return 200, self._get(kind, space, name)
        raise Refused(405, "MethodNotAllowed", f"{method} {path}: not emulated")

    def _get(self, kind: str, space: str, name: str) -> Object:
        try:
            return self.objects[kind, space, name]
        except KeyError:
            raise Refused(404, "NotFound", f'{plural(kind)} "{name}" not found') from None

    def _create(self, kind: str, space: str, given: Object) -> Object:
        name = given["metadata"]["name"]
        if space and ("Namespace", "", space) not in self.objects:
            raise Refused(404, "NotFound", f'namespaces "{space}" not found')
        if (kind, space, name) in self.objects:
            raise Refused(409, "AlreadyExists", f'{plural(kind)} "{name}" already exists')
        if not given["apiVersion"].startswith(CUSTOM):
            try:
                kubernetes_validate.validate(given, _VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refused(400, "BadRequest", f"{kind} {name}: {error.message}") from error
        made = {**given, "metadata": {**given["metadata"], "uid": f"uid-{len(self.objects)}", "resourceVersion": "1"}}
        self.objects[kind, space, name] = made
        return made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, document = self.server.answer(self.command, urlsplit(self.path).path, self._given(body))
        except Refused as refused:
            status, reason, message = refused.args
            document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
            document |= {"reason": reason, "message": message}
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _given(self, body: bytes) -> Object | None:
        if self.headers.get_content_type() == "application/vnd.kubernetes.protobuf":
            return protobuf.secret(body)
        return json.loads(body) if body else None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def objects() -> Iterator[ObjectServer]:
    """Serve an empty one."""
    with answering(ObjectServer()) as server:
        yield server
