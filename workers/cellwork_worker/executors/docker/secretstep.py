"""A step of a build that sees secrets, where the builder is the classic one, which can give it none.

A container of the image so far does it. The secrets come on its standard input and lie in its memory (a tmpfs), so they
are in no layer, and in no configuration that the engine keeps; what is left of the container becomes the next layer.
"""

import re
import shlex
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import msgspec
from docker.errors import APIError
from docker.types import LogConfig

from cellwork.errors import ImageBuildFailed
from cellwork.image import SECRETS

from .engine import Engine, answer
from .progress import Progress
from .stream import Attached, Demux, chunks

_STEP = re.compile(r"RUN ((?:--mount=type=secret,id=\w+,required=true )+)(\[.*\])", re.DOTALL)
_ID = re.compile(r"id=(\w+)")


class SecretStep(msgspec.Struct, frozen=True):
    """One of them, taken out of its instruction."""

    names: tuple[str, ...]
    argv: tuple[str, ...]

    @property
    def script(self) -> str:
        """Puts each secret from standard input where the command finds it, then becomes the command.

        A secret's size comes with it: a command line would stay in the image's history.
        """
        takes = (f"read n && dd bs=1 count=$n of={SECRETS}/{name} 2>/dev/null" for name in self.names)
        return f"(umask 077 && {' && '.join(takes)}) || exit 125; exec </dev/null && exec {shlex.join(self.argv)}"

    def input(self, secrets: Mapping[str, str]) -> bytes:
        """What the script reads."""
        values = (secrets[name].encode() for name in self.names)
        return b"".join(b"%d\n%s" % (len(value), value) for value in values)


def parse(instruction: str) -> SecretStep | None:
    """None: the instruction is one that any builder knows."""
    if (found := _STEP.fullmatch(instruction)) is None:
        return None
    return SecretStep(tuple(_ID.findall(found[1])), tuple(msgspec.json.decode(found[2], type=list[str])))


def run(
    engine: Engine, image: str, step: SecretStep, secrets: Mapping[str, str], seconds: float, progress: Progress
) -> str:
    """Do the step on `image`; return the id of the image that it makes.

    Args:
        seconds: it may take so long.

    Raises:
        ImageBuildFailed: it failed.
        EngineUnavailable: no engine answers.
    """
    client = engine.client
    # Its output only comes here: a log of the engine's would keep what the step prints of the secrets.
    config = client.create_host_config(
        tmpfs={SECRETS: "size=1m,mode=1777"}, log_config=LogConfig(type=LogConfig.types.NONE)
    )
    made = client.create_container(
        image, ["-c", step.script], entrypoint="/bin/sh", stdin_open=True, host_config=config, detach=False
    )["Id"]
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(APIError):  # it has just ended
            client.kill(made)

    timer = threading.Timer(max(seconds, 0.1), end)
    try:
        streams = Attached(client.attach_socket(made, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}))
        try:
            client.start(made)
            timer.start()
            streams.write(step.input(secrets))
            for stream, data in chunks(streams.read, Demux()):
                progress.printed_by(stream, data)
        finally:
            streams.close()
        status = int(client.wait(made)["StatusCode"])
        if late.is_set():
            raise progress.failed("not done in time (build_timeout of the policy)")
        if status != 0:
            raise progress.failed(f"status {status}")
        return str(client.commit(made, message="with secrets that are not in it")["Id"])
    except APIError as error:
        raise progress.failed(answer(error)) from error
    finally:
        timer.cancel()
        _remove(client, made)


def _remove(client: Any, container: str) -> None:
    try:
        client.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise ImageBuildFailed(f"the container of a build's step cannot be removed: {answer(error)}") from error
