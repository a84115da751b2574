"""Libraries for an image from an index with a password, and the versions that a uv.lock decides."""

import base64
import http.server
import io
import json
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from typing import ClassVar

import builtimages
import docker
import pytest
from httpserver import answering

USER, PASSWORD = "builder", "hush-hush-4711"


def wheel(name: str, version: str) -> bytes:
    """A library that knows its version."""
    packed = io.BytesIO()
    folder = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return packed.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """One library, for those who know the password (PEP 503)."""

    files: ClassVar = {"shopcore-1.0-py3-none-any.whl": wheel("shopcore", "1.0")}
    refused: ClassVar = 0

    def do_GET(self) -> None:
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {known}":
            type(self).refused += 1
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()
            return
        name = self.path.rsplit("/", 1)[-1]
        links = "".join(f'<a href="/{file}">{file}</a>' for file in self.files)
        body = self.files[name] if name in self.files else f"<html><body>{links}</body></html>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if name in self.files else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def address(gateway) -> Iterator[str]:
    """Where builds reach the index."""
    with answering(http.server.ThreadingHTTPServer((gateway, 0), Index)) as server:
        yield f"{gateway}:{server.server_address[1]}"


@pytest.fixture
def build(engine, tmp_path, broker):
    """Type ``cellwork images build`` for an application with this image; gives what was built, or said."""
    name = f"indexes-{uuid.uuid4().hex[:12]}"

    def run(image: str, **env: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "declared.py").write_text(
            "from celery import Celery\nfrom cellwork import Image, command, configure\n"
            f"app = configure(Celery({name!r}))\n"
            f"@command(app, image=Image('cellwork/python:base', root={str(tmp_path)!r}){image})\n"
            "def nothing():\n    return ['true']\n"
        )
        command = [sys.executable, "-m", "cellwork", "images", "-A", "declared", "build", "--json"]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, timeout=180, check=False
        )

    yield run
    builtimages.remove(engine, name)


def imported(engine: docker.DockerClient, image: str, expression: str) -> str:
    module = expression.partition(".")[0]
    program = f"import {module}; print({expression})"
    return engine.containers.run(image, ["python3", "-c", program], remove=True, network_mode="none").decode().strip()


def test_a_library_comes_from_an_index_whose_password_only_the_builder_has(build, address, engine):
    host = address.partition(":")[0]
    image = f'.env(PIP_TRUSTED_HOST="{host}").pip("shopcore", index_secret="SHOP_INDEX")'
    ran = build(image, CELLWORK_SECRET_SHOP_INDEX=f"http://{USER}:wrong-{PASSWORD}@{address}/simple")
    assert ran.returncode == 1
    assert Index.refused > 0
    assert PASSWORD not in ran.stderr
    ran = build(image, CELLWORK_SECRET_SHOP_INDEX=f"http://{USER}:{PASSWORD}@{address}/simple")
    assert ran.returncode == 0, ran.stderr
    (built,) = json.loads(ran.stdout)
    assert imported(engine, built["image"], "shopcore.version") == "1.0"
    attributes = engine.images.get(built["image"])
    assert PASSWORD not in json.dumps([attributes.attrs, attributes.history()])
    assert not any(PASSWORD.encode() in chunk for chunk in attributes.save())


def test_a_uv_lock_decides_the_versions(build, tmp_path, engine):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six"]\n'
    )
    (tmp_path / "uv.lock").write_text(LOCK)
    ran = build('.pip(pyproject="pyproject.toml")')
    assert ran.returncode == 0, ran.stderr
    (built,) = json.loads(ran.stdout)
    assert imported(engine, built["image"], "six.__version__") == "1.16.0"


#: As `uv lock` writes it for that project, with an older six than there is.
LOCK = """\
version = 1
revision = 2
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1"
source = { virtual = "." }
dependencies = [
    { name = "six" },
]

[package.metadata]
requires-dist = [{ name = "six" }]

[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://pypi.org/simple" }
wheels = [
    { url = "https://files.pythonhosted.org/packages/d9/5a/e7c31adbe875f2abbb91bd84cf2dc52d792b5a01506781dbcf25c91daf11/six-1.16.0-py2.py3-none-any.whl", hash = "sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254" },
]
"""  # noqa: E501
