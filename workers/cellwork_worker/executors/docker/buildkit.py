"""Building with BuildKit, where the engine says that it is its builder, through ``docker buildx``.

Its protocol is gRPC over a session, which docker-py does not speak.
"""

import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import IO

import requests

from .engine import Engine
from .progress import Progress

#: Seconds for a question to the command.
_ANSWER = 20.0

_VERTEX = re.compile(r"#(\d+) (?:\[(?:\S+ )?(\d+)/(\d+)\] (.*)|[\d.]+ (.*)|(ERROR): .*)")
_ERROR = re.compile(r"ERROR: (.*)")


def present(engine: Engine) -> bool:
    """True where the engine's builder is BuildKit (``Builder-Version: 2``) and buildx is installed here.

    Raises:
        EngineUnavailable: no engine answers.
    """
    client = engine.client
    with engine.errors("to ask which builder it has"):
        said: requests.Response = client.get(f"{client.base_url}/_ping")
    if said.status_code != HTTPStatus.OK or said.headers.get("Builder-Version") != "2":
        return False
    try:
        asked = subprocess.run(
            ["docker", "buildx", "version"],  # noqa: S607 - the user's docker
            capture_output=True,
            timeout=_ANSWER,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def command(tag: str, labels: Mapping[str, str], dockerfile: str, secrets: Iterable[str]) -> list[str]:
    """What builds the context on standard input. Secrets are only named: their values are in `environment`."""
    words = ["docker", "buildx", "build", "--progress=plain", "--load", "--tag", tag, "--file", dockerfile]
    for name, value in labels.items():
        words += ["--label", f"{name}={value}"]
    for name in secrets:
        words += ["--secret", f"id={name},env={_variable(name)}"]
    return [*words, "-"]


def environment(engine: Engine, secrets: Mapping[str, str]) -> dict[str, str]:
    """For `command`: where the engine is, and the secrets."""
    values = {_variable(name): value for name, value in secrets.items()}
    return {**os.environ, "DOCKER_HOST": engine.address, **values}


def _variable(name: str) -> str:
    return f"CELLWORK_BUILD_SECRET_{name}"


def build(
    engine: Engine,
    words: list[str],
    context: IO[bytes],
    secrets: Mapping[str, str],
    seconds: float,
    progress: Progress,
) -> None:
    """Run `command`.

    Args:
        context: a tar file at its beginning.
        seconds: it may take so long.

    Raises:
        ImageBuildFailed: with the failing step and its last lines.
    """
    with subprocess.Popen(
        words,
        stdin=context,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(engine, secrets),
        text=True,
        errors="replace",
    ) as process:
        timer = threading.Timer(max(seconds, 0.1), process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            why = follow(process.stdout, progress)
            status = process.wait()
            late = not timer.is_alive()
        finally:
            timer.cancel()
            process.kill()
    if late and status != 0:
        raise progress.failed("not done in time (build_timeout of the policy)")
    if status != 0:
        raise progress.failed(why or f"docker buildx ended with status {status}")


def follow(lines: Iterable[str], progress: Progress) -> str:
    """Read ``--progress=plain``; return what the command says of its failure, if it failed.

    Steps of several stages are built side by side: what a step printed is kept until it is known which one failed.
    """
    steps: dict[str, tuple[int, int, str]] = {}
    printed: dict[str, list[str]] = {}
    why = ""
    for line in lines:
        if found := _VERTEX.match(line):
            vertex, number, of, text, output, error = found.groups()
            if number and vertex not in steps:
                steps[vertex] = int(number), int(of), text
                progress.at(*steps[vertex])
            elif output is not None:
                printed.setdefault(vertex, []).append(output)
                del printed[vertex][:-100]
            elif error and vertex in steps:
                progress.at(*steps[vertex])
                progress.printed("\n".join(printed.get(vertex, ())))
        elif found := _ERROR.match(line):
            why = found[1]
    return why
