"""An image registry on this machine that takes what is pushed, and gives it back (Docker Registry HTTP API V2)."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from httpserver import answering


class StoringRegistry(ThreadingHTTPServer):
    """Keeps everything in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        #: By name and tag, or name and digest, as in the path.
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StoringRegistry

    def do_GET(self) -> None:
        kind, _, last = self.path.rpartition("/")
        if self.path == "/v2/":
            self._answer(200, b"{}")
        elif kind.endswith("/blobs") and last in self.server.blobs:
            self._answer(200, self.server.blobs[last], {"Docker-Content-Digest": last})
        elif kind.endswith("/manifests") and self.path in self.server.manifests:
            data = self.server.manifests[self.path]
            found = {"Docker-Content-Digest": _digest(data), "Content-Type": json.loads(data)["mediaType"]}
            self._answer(200, data, found)
        else:
            self._answer(404, b'{"errors": [{"code": "NAME_UNKNOWN", "message": "not here"}]}')

    do_HEAD = do_GET  # noqa: N815 - http.server's spelling

    def do_POST(self) -> None:
        upload = uuid.uuid4().hex
        self.server.uploads[upload] = b""
        self._answer(202, b"", {"Location": f"/v2/uploads/{upload}", "Docker-Upload-UUID": upload, "Range": "0-0"})

    def do_PATCH(self) -> None:
        upload = self.path.rpartition("/")[2]
        self.server.uploads[upload] += self._body()
        range_ = f"0-{len(self.server.uploads[upload]) - 1}"
        self._answer(202, b"", {"Location": self.path, "Docker-Upload-UUID": upload, "Range": range_})

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        data = self._body()
        if parts.path.startswith("/v2/uploads/"):
            data = self.server.uploads.pop(parts.path.rpartition("/")[2]) + data
            digest = parse_qs(parts.query)["digest"][0]
            assert _digest(data) == digest
            self.server.blobs[digest] = data
        else:
            digest = _digest(data)
            self.server.manifests[self.path] = data
            self.server.manifests[f"{self.path.rpartition('/')[0]}/{digest}"] = data
        self._answer(201, b"", {"Docker-Content-Digest": digest, "Location": parts.path})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def storing() -> Iterator[StoringRegistry]:
    """Serve an empty one."""
    with answering(StoringRegistry()) as server:
        yield server
