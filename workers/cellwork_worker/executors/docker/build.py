"""Building images on the engine: with BuildKit where that is its builder, else with the one that every engine has."""

import json
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import IO, Any

import msgspec
import requests
from docker import auth
from docker.errors import APIError, DockerException, ImageNotFound
from urllib3.exceptions import ReadTimeoutError

from cellwork import imagefiles
from cellwork.errors import ImageUnavailable
from cellwork.image import Image
from cellwork.spec import ContainerSpec
from cellwork_worker.launch import Launch

from . import buildkit, secretstep
from .engine import Engine, answer
from .images import pull
from .progress import Progress

#: No file of the user's has this name: hidden ones stay behind.
_DOCKERFILE = ".cellwork.Dockerfile"

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")


class ImageBuilder:
    """See `cellwork_worker.imagebuild.Builder`."""

    def __init__(self, engine: Engine) -> None:
        """Connects on first use."""
        self._engine = engine
        self._buildkit: bool | None = None

    def has(self, tag: str) -> bool:
        """See the protocol."""
        return self.inspect(tag) is not None

    def inspect(self, tag: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None: it has none of that name."""
        try:
            with self._engine.errors(f"to look for image {tag}"):
                return dict(self._engine.client.inspect_image(tag))
        except ImageNotFound:
            return None

    def pull(self, task: str, spec: ContainerSpec) -> bool:
        """See the protocol."""
        launch = Launch(id="", task=task, task_id="", spec=spec, argv=(), env={}, payload=None, labels={})
        try:
            with self._engine.errors(f"to pull image {spec.image}"):
                pull(self._engine, launch, time.monotonic() + (spec.start_timeout or 0))
        except ImageUnavailable:
            return False
        return True

    def build(
        self,
        image: Image,
        tag: str,
        labels: dict[str, str],
        timeout: float,
        say: Callable[[int, int, str], None],
        secrets: Mapping[str, str],
    ) -> None:
        """See the protocol."""
        progress = Progress(tag, say, secrets.values())
        deadline = time.monotonic() + timeout
        with self._engine.errors(f"to build image {tag}"):
            if self._has_buildkit():
                self._with_buildkit(image, tag, labels, deadline, secrets, progress)
            elif image.secrets and not image.dockerfile:
                self._in_parts(image, tag, labels, deadline, secrets, progress)
            else:
                self._part(_Part(image, image.text), {"t": tag, "labels": json.dumps(labels)}, deadline, progress)

    def _has_buildkit(self) -> bool:
        if self._buildkit is None:
            self._buildkit = buildkit.present(self._engine)
        return self._buildkit

    def _with_buildkit(
        self,
        image: Image,
        tag: str,
        labels: dict[str, str],
        deadline: float,
        secrets: Mapping[str, str],
        progress: Progress,
    ) -> None:
        words = buildkit.command(tag, labels, _DOCKERFILE, secrets)
        with tempfile.TemporaryFile() as context:
            pack(image, image.text, context)
            context.seek(0)
            buildkit.build(self._engine, words, context, secrets, deadline - time.monotonic(), progress)

    def _in_parts(
        self,
        image: Image,
        tag: str,
        labels: dict[str, str],
        deadline: float,
        secrets: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Steps that see secrets are done beside the classic builder, the others by it."""
        of, base, held, done = len(image.steps) + 1, image.base, list[str](), 0
        ending: list[str] = []
        for number, step in enumerate(image.steps, start=2):
            if (secret := secretstep.parse(step)) is None:
                held.append(step)
                continue
            text = "\n".join((f"FROM {base}", *held)) + "\n"
            base = self._part(_Part(image, text, done, of), {}, deadline, progress)
            # What the step's container was started with must not become what the image starts with.
            ending = ending or _starts_with(self._engine.client.inspect_image(base)["Config"] or {})
            progress.at(number, of, step)
            base = secretstep.run(self._engine, base, secret, secrets, deadline - time.monotonic(), progress)
            held, done = [], number - 1
        text = "\n".join((f"FROM {base}", *held, *ending)) + "\n"
        self._part(_Part(image, text, done, of), {"t": tag, "labels": json.dumps(labels)}, deadline, progress)

    def _part(self, part: "_Part", params: dict[str, str], deadline: float, progress: Progress) -> str:
        """Have the engine build a Dockerfile, as a whole or in part; return the image's id."""
        made = ""
        with tempfile.TemporaryFile() as context:
            pack(part.image, part.text, context)
            context.seek(0)
            try:
                for event in self._events(params, context, deadline, progress):
                    text = str(event.get("stream") or event.get("status") or "")
                    if found := _STEP.match(text):
                        number, of = int(found[1]) + part.done, part.of or int(found[2])
                        # A later part begins with a FROM, and the last ends with instructions, that nobody wrote.
                        if (number > part.done + 1 or not part.done) and number <= of:
                            progress.at(number, of, found[3])
                    else:
                        progress.printed(text)
                    made = str((event.get("aux") or {}).get("ID") or made)
                    if "error" in event:
                        raise progress.failed(str(event["error"]))
                    if time.monotonic() > deadline:
                        raise progress.failed("not done in time (build_timeout of the policy)")
            except (requests.ReadTimeout, requests.ConnectionError) as error:
                if isinstance(error, requests.ReadTimeout) or isinstance(next(iter(error.args), 0), ReadTimeoutError):
                    raise progress.failed("silent until its time was over (build_timeout of the policy)") from error
                raise
            except APIError as error:
                raise progress.failed(answer(error)) from error
        return made

    def _events(
        self, params: dict[str, str], context: IO[bytes], deadline: float, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """What the engine says while it builds. Leaving the loop ends the build."""
        client = self._engine.client
        response = client.post(
            f"{client.base_url}/v{client.api_version}/build",
            params={"dockerfile": _DOCKERFILE, "rm": "1", "forcerm": "1", **params},
            headers={"Content-Type": "application/x-tar", **_logins(progress)},
            data=context,
            stream=True,
            timeout=max(deadline - time.monotonic(), 0.1),
        )
        with response:
            if not response.ok:
                raise progress.failed(str(response.json().get("message")), "its Dockerfile")
            for line in response.iter_lines():
                yield json.loads(line)


class _Part(msgspec.Struct, frozen=True):
    """A Dockerfile, or some of one."""

    image: Image
    text: str
    #: Steps of the whole that were done before, and all of them; 0: this is the whole.
    done: int = 0
    of: int = 0


def _starts_with(config: Mapping[str, Any]) -> list[str]:
    """The instructions that make an image start as one with this configuration does."""
    # In this order: an ENTRYPOINT takes away the CMD before it.
    return [f"ENTRYPOINT {json.dumps(config.get('Entrypoint') or [])}", f"CMD {json.dumps(config.get('Cmd') or [])}"]


def pack(image: Image, text: str, into: IO[bytes]) -> None:
    """Write the build's context, with the Dockerfile `text`, as a tar file; the same content gives the same bytes.

    Raises:
        InvalidSpec: a file cannot be read.
    """
    with tarfile.open(fileobj=into, mode="w") as tar:
        _add(tar, _DOCKERFILE, text.encode(), 0o644)
        for file in image.context:
            _add(tar, file.name, imagefiles.read(file), 0o755 if file.executable else 0o644)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, BytesIO(content))


def _logins(progress: Progress) -> dict[str, str]:
    """The engine's header with all logins of the worker's Docker configuration, for bases of private registries."""
    try:
        known = auth.load_config().get_all_credentials()
    except DockerException as error:
        raise progress.failed(f"the logins in Docker's configuration cannot be read: {error}", "its base") from error
    return {"X-Registry-Config": auth.encode_header(known).decode()} if known else {}
