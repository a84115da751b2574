"""How registries are asked what an image runs: logins, platforms, and that what they say is not believed."""

import base64
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from httpserver import answering
from waiting import wait_until

from cellwork_worker.executors.kubernetes.programs import Programs
from cellwork_worker.executors.kubernetes.registries import Registries, source
from cellwork_worker.executors.shell import Program

DIGEST = f"sha256:{'1' * 64}"


class Server(ThreadingHTTPServer):
    """Documents by digest; a password if wanted, and ways to be no registry at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.documents: dict[str, bytes] = {}
        #: What it asks back; empty: nothing.
        self.challenge = ""
        self.login = b"shop:secret"
        #: Where documents are instead.
        self.elsewhere = ""
        self.asked: list[str] = []
        self.told: list[str] = []

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def add(self, document: object) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.documents[digest] = data
        return digest

    def add_image(self, **run: object) -> str:
        """`run`: of its configuration."""
        return self.add({"config": {"digest": self.add({"config": run})}})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server, said = self.server, self.headers.get("Authorization", "")
        server.asked.append(self.path)
        server.told.append(said)
        path = urlsplit(self.path)
        digest = path.path.rpartition("/")[2]
        if path.path == "/token":
            asked = parse_qs(path.query)
            fits = said == f"Basic {base64.b64encode(server.login).decode()}" and asked["scope"] == ["pull"]
            self._answer(200 if fits else 403, json.dumps({"token": "t0ken"} if fits else {}).encode())
        elif server.challenge and said != "Bearer t0ken" and not server.elsewhere:
            self._answer(401, b"{}", {"WWW-Authenticate": server.challenge})
        elif server.elsewhere:
            self._answer(307, b"", {"Location": f"{server.elsewhere}/{digest}"})
        elif digest in server.documents:
            self._answer(200, server.documents[digest])
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # whoever asked has had enough
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with answering(Server()) as server:
        yield server


@pytest.fixture
def ask(server, launch, monkeypatch, tmp_path):
    """What the image with a digest runs, on a platform."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def ask(digest: str, **options: object) -> Program | None:
        one = launch("", image=f"{server.name}/team/shop:1.0@{digest}", **options)
        found = Programs(Registries([server.name])).of(one)
        if found is not None:
            assert found.image == f"{server.name}/team/shop@{digest}"
        return found and found._replace(image="")

    return ask


def log_in(folder, server: Server) -> None:
    auths = {server.name: {"auth": base64.b64encode(server.login).decode()}}
    (folder / "config.json").write_text(json.dumps({"auths": auths, "credsStore": "x"}))


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("python@{}", "https://registry-1.docker.io/v2/library/python"),
        ("shop/job:1@{}", "https://registry-1.docker.io/v2/shop/job"),
        ("registry.example/job@{}", "https://registry.example/v2/job"),
        ("registry.example:5000/team/job:2@{}", "https://registry.example:5000/v2/team/job"),
        ("localhost/job@{}", "http://localhost/v2/job"),
    ],
)
def test_the_name_of_an_image_tells_where_it_is(image, url):
    found = source(image.format(DIGEST))
    assert (found.url, found.reference, found.fixed) == (url, DIGEST, True)
    tagged = source(image.format("").rstrip("@"))
    assert (tagged.url, tagged.fixed) == (url, False)


@pytest.mark.parametrize(
    ("image", "tag"), [("python", "latest"), ("python:3", "3"), ("r.example:5000/job", "latest"), ("r:1/job:2", "2")]
)
def test_an_image_without_its_digest_is_that_of_a_tag(image, tag):
    assert source(image).reference == tag


@pytest.mark.parametrize("image", ["registry.example/job@sha256:12", "job@md5:" + "1" * 64, "job@sha256:"])
def test_a_digest_of_another_kind_is_not_understood(image):
    assert source(image) is None


def test_an_image_tells_its_program(ask, server):
    digest = server.add_image(Entrypoint=["/entry", "x"], Cmd=["y"], Env=["A=b"])
    assert ask(digest) == Program(("/entry", "x"), ("y",))
    assert ask(server.add_image(Entrypoint=None)) == Program()
    assert server.asked[0] == f"/v2/team/shop/manifests/{digest}"


def test_an_index_tells_it_where_all_of_its_platforms_have_the_same(ask, server):
    def index(*images: tuple[str, str]) -> str:
        return server.add(
            {
                "manifests": [
                    {"digest": digest, "platform": {"os": name.split("/")[0], "architecture": name.split("/")[1]}}
                    for name, digest in images
                ]
            }
        )

    one, other = server.add_image(Entrypoint=["one"]), server.add_image(Entrypoint=["other"], Cmd=["x"])
    also = server.add_image(Entrypoint=["one"], User="1")
    alike = index(("linux/amd64", one), ("linux/arm64", also), ("unknown/unknown", other), ("windows/amd64", other))
    assert ask(alike) == Program(("one",))
    differ = index(("linux/amd64", one), ("linux/arm64", other))
    assert ask(differ) is None
    assert ask(differ, platform="linux/arm64") == Program(("other",), ("x",))
    assert ask(index(("windows/amd64", one))) is None
    assert ask(index(*[("linux/amd64", one)] * 17)) is None


def test_a_registry_that_wants_to_know_who_asks_is_told_with_the_workers_login(ask, server, tmp_path):
    server.challenge = f'Bearer realm="http://{server.name}/token",service="here",scope="pull"'
    digest = server.add_image(Entrypoint=["entry"])
    assert ask(digest) is None
    log_in(tmp_path, server)
    assert ask(digest) == Program(("entry",))


def test_a_login_goes_to_no_other_host(ask, server, tmp_path):
    digest = server.add_image(Entrypoint=["entry"])
    log_in(tmp_path, server)
    with answering(Server()) as other:
        other.documents = server.documents
        server.elsewhere = f"http://localhost:{other.server_address[1]}"
        assert ask(digest) == Program(("entry",))
        assert set(other.told) == {""}
        server.elsewhere, server.challenge = "", 'Bearer realm="https://elsewhere.example/token",scope="pull"'
        assert ask(digest) is None


@pytest.mark.parametrize(
    "document",
    [b"[]", b"{", b'{"config": 1}', b'{"manifests": [{"digest": "../../x"}]}', bytes(5 << 20), b"[" * 100_000],
)
def test_what_is_no_image_costs_the_figures_and_is_said(ask, server, document, caplog):
    assert ask(server.add(document)) is None
    assert "its short commands have no figures" in caplog.text


def test_a_document_that_is_another_one_is_not_believed(ask, server, caplog):
    digest = server.add_image(Entrypoint=["entry"])
    server.documents[digest] = server.documents[server.add_image(Entrypoint=["evil"])]
    assert ask(digest) is None
    assert "gives something else" in caplog.text


def test_one_asks_for_all_and_what_was_not_told_is_not_asked_for_again_soon(server, launch, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    programs = Programs(Registries(["*"]))
    for digest, requests in ((DIGEST, 1), (server.add_image(Entrypoint=["entry"]), 3)):
        with ThreadPoolExecutor(8) as pool:
            one = launch("", image=f"{server.name}/shop@{digest}")
            assert len(set(pool.map(programs.of, [one] * 32))) == 1
        assert len(server.asked) == requests


def test_what_a_tag_means_is_asked_again_after_a_while(server, launch, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("cellwork_worker.executors.kubernetes.programs._TAG", 0.5)
    programs, one = Programs(Registries(["*"])), launch("", image=f"{server.name}/shop:1.0", pull="missing")
    for program in ("old", "new"):
        digest = server.add_image(Entrypoint=[program])
        server.documents["1.0"] = server.documents[digest]
        expected = Program((program,), (), f"{server.name}/shop@{digest}")
        wait_until(lambda expected=expected: programs.of(one) == expected, timeout=5, what=program)
    # Meanwhile it was not asked each time.
    assert len(server.asked) < 8


def test_who_must_not_be_asked_is_not(server, launch):
    digest = server.add_image(Entrypoint=["entry"])
    one = launch("", image=f"{server.name}/shop@{digest}")
    assert Programs(Registries(["registry.example"])).of(one) is None
    assert Programs(Registries(["*"])).of(msgspec.structs.replace(one, payload=b"x")) is None
    for options in ({"init": False}, {"entrypoint": ["mine"]}):
        assert Programs(Registries(["*"])).of(launch("", image=one.spec.image, **options)) is None
    assert Programs(Registries(["*"])).of(launch("", image=f"{server.name}/shop:1", pull="never")) is None
    assert server.asked == []
