"""An image registry on this machine, as far as a pull goes: one image, a password if wanted, and it can hang."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from httpserver import answering

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry(ThreadingHTTPServer):
    """Serves whatever name and tag is asked for with the same image (Docker Registry HTTP API V2)."""

    daemon_threads = True

    def __init__(self, saved: bytes, login: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.login = login
        #: While set, requests wait for it to be cleared.
        self.answering = threading.Event()
        self.answering.set()
        self.asked: list[str] = []
        #: Who asked, by the names they give themselves.
        self.agents: list[str | None] = []
        self.blobs: dict[str, tuple[str, bytes]] = {}
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
            member = json.loads(_read(tar, "manifest.json"))[0]
            config = self._add(_CONFIG, _read(tar, member["Config"]))
            layers = [self._add(_LAYER, gzip.compress(_read(tar, name), mtime=0)) for name in member["Layers"]]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        self.manifest = self._add(_MANIFEST, json.dumps(manifest).encode())["digest"]

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def _add(self, kind: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = kind, data
        return {"mediaType": kind, "size": len(data), "digest": digest}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.agents.append(self.headers.get("User-Agent"))
        self.server.answering.wait(60)
        login = self.server.login
        if login and self.headers.get("Authorization") != f"Basic {base64.b64encode(login.encode()).decode()}":
            self._answer(401, "application/json", b"{}", {"WWW-Authenticate": 'Basic realm="registry"'})
        elif self.path == "/v2/":
            self._answer(200, "application/json", b"{}")
        else:
            kind, _, reference = self.path.rpartition("/")
            digest = self.server.manifest if kind.endswith("/manifests") else reference
            self._answer(200, *self.server.blobs[digest], {"Docker-Content-Digest": digest})

    do_HEAD = do_GET  # noqa: N815 - http.server's spelling

    def _answer(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(image: Any, login: str | None = None) -> Iterator[Registry]:
    """Serve an image of the engine. `login`: ``name:password``."""
    with answering(Registry(b"".join(image.save()), login)) as server:
        try:
            yield server
        finally:
            server.answering.set()


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()
