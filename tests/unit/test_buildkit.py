"""BuildKit: when it is chosen, how it is called, and how its progress is read. No engine here has it."""

import http.server

import pytest
from httpserver import answering

from cellwork.errors import ImageBuildFailed
from cellwork_worker.executors.docker import Engine, buildkit
from cellwork_worker.executors.docker.progress import Progress

#: What ``docker buildx build --progress=plain`` prints of two stages side by side, of which one fails.
FAILED = """\
#0 building with "default" instance using docker driver
#1 [internal] load build definition from .cellwork.Dockerfile
#1 transferring dockerfile: 210B done
#1 DONE 0.0s
#4 [tools 1/2] FROM docker.io/library/golang:1
#4 CACHED
#5 [stage-1 2/3] RUN ["/bin/sh", "-c", "make flour"]
#6 [tools 2/2] RUN ["/bin/sh", "-c", "make tools"]
#5 0.211 milling with hush-hush
#6 0.215 tools are made
#5 0.312 flour is out
#5 ERROR: process "/bin/sh -c make flour" did not complete successfully: exit code: 3
#6 0.400 more tools
------
 > [stage-1 2/3] RUN ["/bin/sh", "-c", "make flour"]:
0.312 flour is out
------
ERROR: failed to solve: process "/bin/sh -c make flour" did not complete successfully: exit code: 3
"""


class Engine23(http.server.BaseHTTPRequestHandler):
    """Says what an engine says that is asked for its version and its builder."""

    builder = "2"

    def do_GET(self) -> None:
        body = b'{"ApiVersion": "1.43"}' if self.path.endswith("version") else b"OK"
        self.send_response(200)
        self.send_header("Builder-Version", self.builder)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def engine():
    with answering(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine23)) as server:
        found = Engine(f"tcp://127.0.0.1:{server.server_address[1]}")
        yield found
        found.client.close()


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Put a program of this text where the docker command is looked for."""

    def install(text: str) -> None:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{text}")
        (tmp_path / "docker").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return install


def test_buildkit_is_chosen_where_the_engine_says_so_and_buildx_is_there(engine, docker, monkeypatch):
    docker('[ "$*" = "buildx version" ]')
    assert buildkit.present(engine)
    docker("exit 1")
    assert not buildkit.present(engine)
    docker("exit 0")
    monkeypatch.setattr(Engine23, "builder", "1")
    assert not buildkit.present(engine)


def test_a_failure_names_the_step_that_failed_and_quotes_its_own_lines():
    said: list[tuple] = []
    progress = Progress("shop:1", lambda *step: said.append(step), ["hush-hush"])
    why = buildkit.follow(FAILED.splitlines(keepends=True), progress)
    told = str(progress.failed(why))
    assert said[0] == (1, 2, "FROM docker.io/library/golang:1")
    assert told.startswith('image shop:1 cannot be built: step 2/3 (RUN ["/bin/sh", "-c", "make flour"]) failed: ')
    assert told.endswith("exit code: 3\nIts last lines:\n  milling with [redacted]\n  flour is out")


def test_the_command_gets_context_labels_and_secrets_and_none_of_their_values_is_in_its_words(engine, docker, tmp_path):
    docker(f'printf "%s\\n" "$@" > {tmp_path}/words; cat > {tmp_path}/in; env > {tmp_path}/env')
    secrets = {"NPM": "hush-hush"}
    words = buildkit.command("shop:1", {"a": "two\nlines"}, "Dockerfile", secrets)
    progress = Progress("shop:1", lambda *step: None, secrets.values())
    with (tmp_path / "context").open("w+b") as context:
        context.write(b"a tar file")
        context.seek(0)
        buildkit.build(engine, words, context, secrets, 30, progress)
    typed = (tmp_path / "words").read_text()
    assert typed.startswith("buildx\nbuild\n--progress=plain\n--load\n--tag\nshop:1\n")
    assert "--label\na=two\nlines\n--secret\nid=NPM,env=CELLWORK_BUILD_SECRET_NPM\n-\n" in typed
    assert "hush" not in typed
    assert (tmp_path / "in").read_text() == "a tar file"
    environment = (tmp_path / "env").read_text()
    assert "CELLWORK_BUILD_SECRET_NPM=hush-hush\n" in environment
    assert f"DOCKER_HOST={engine.address}\n" in environment


def test_a_build_that_takes_too_long_or_says_nothing_is_told(engine, docker, tmp_path):
    progress = Progress("shop:1", lambda *step: None, [])
    (tmp_path / "context").write_bytes(b"")
    for text, seconds, told in (("exec sleep 30", 0.3, "not done in time"), ("exit 9", 30, "ended with status 9")):
        docker(text)
        with (tmp_path / "context").open("rb") as context, pytest.raises(ImageBuildFailed, match=told):
            buildkit.build(engine, ["docker", "buildx", "build"], context, {}, seconds, progress)
