"""Building images on the engine, with the builder that every engine has (its API's "ImageBuild")."""

import collections
import json
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any

import requests
from docker import auth
from docker.errors import APIError, DockerException, ImageNotFound
from urllib3.exceptions import ReadTimeoutError

from cellwork import imagefiles
from cellwork.errors import ImageBuildFailed, ImageUnavailable
from cellwork.image import Image
from cellwork.printable import printable
from cellwork.spec import ContainerSpec
from cellwork_worker.launch import Launch

from .engine import Engine, answer
from .images import pull

#: Lines of a failing step that the error quotes, and characters of each.
_LINES = 20
_LINE_LENGTH = 500

#: No file of the user's has this name: hidden ones stay behind.
_DOCKERFILE = ".cellwork.Dockerfile"

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")


class ImageBuilder:
    """See `cellwork_worker.imagebuild.Builder`."""

    def __init__(self, engine: Engine) -> None:
        """Connects on first use."""
        self._engine = engine

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
        self, image: Image, tag: str, labels: dict[str, str], timeout: float, say: Callable[[int, int, str], None]
    ) -> None:
        """See the protocol."""
        deadline = time.monotonic() + timeout
        step = "the sending of its files"
        last: collections.deque[str] = collections.deque(maxlen=_LINES)
        with self._engine.errors(f"to build image {tag}"), tempfile.TemporaryFile() as context:
            pack(image, context)
            context.seek(0)
            try:
                for event in self._events(tag, labels, context, deadline):
                    text = str(event.get("stream") or event.get("status") or "")
                    if found := _STEP.match(text):
                        step = f"step {found[1]}/{found[2]} ({found[3].strip()[:_LINE_LENGTH]})"
                        last.clear()
                        say(int(found[1]), int(found[2]), found[3].strip())
                    else:
                        last.extend(printable(line)[:_LINE_LENGTH] for line in text.splitlines() if line.strip())
                    if "error" in event:
                        raise _failed(tag, step, str(event["error"]), last)
                    if time.monotonic() > deadline:
                        raise _failed(tag, step, f"not done after {timeout:g} s (build_timeout of the policy)", last)
            except (requests.ReadTimeout, requests.ConnectionError) as error:
                if isinstance(error, requests.ReadTimeout) or isinstance(next(iter(error.args), 0), ReadTimeoutError):
                    raise _failed(tag, step, f"silent until {timeout:g} s were over", last) from error
                raise
            except APIError as error:
                raise _failed(tag, step, answer(error), last) from error

    def _events(
        self, tag: str, labels: dict[str, str], context: IO[bytes], deadline: float
    ) -> Iterator[dict[str, Any]]:
        """What the engine says while it builds. Leaving the loop ends the build."""
        client = self._engine.client
        response = client.post(
            f"{client.base_url}/v{client.api_version}/build",
            params={"t": tag, "dockerfile": _DOCKERFILE, "rm": "1", "forcerm": "1", "labels": json.dumps(labels)},
            headers={"Content-Type": "application/x-tar", **_logins(tag)},
            data=context,
            stream=True,
            timeout=max(deadline - time.monotonic(), 0.1),
        )
        with response:
            if not response.ok:
                raise _failed(tag, "its Dockerfile", str(response.json().get("message")), ())
            for line in response.iter_lines():
                yield json.loads(line)


def pack(image: Image, into: IO[bytes]) -> None:
    """Write the build's context as a tar file; the same content gives the same bytes.

    Raises:
        InvalidSpec: a file cannot be read.
    """
    with tarfile.open(fileobj=into, mode="w") as tar:
        _add(tar, _DOCKERFILE, image.text.encode(), 0o644)
        for file in image.context:
            _add(tar, file.name, imagefiles.read(file), 0o755 if file.executable else 0o644)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, BytesIO(content))


def _logins(tag: str) -> dict[str, str]:
    """The engine's header with all logins of the worker's Docker configuration, for bases of private registries."""
    try:
        known = auth.load_config().get_all_credentials()
    except DockerException as error:
        raise _failed(tag, "its base", f"the logins in Docker's configuration cannot be read: {error}", ()) from error
    return {"X-Registry-Config": auth.encode_header(known).decode()} if known else {}


def _failed(tag: str, step: str, why: str, last: "collections.deque[str] | tuple[str, ...]") -> ImageBuildFailed:
    said = "\nIts last lines:\n" + "\n".join(f"  {line}" for line in last) if last else ""
    return ImageBuildFailed(f"image {tag} cannot be built: {step} failed: {printable(why)}{said}")
