"""Pulling an image, within the time that a task's sandbox may take to start."""

import json
import time
from collections.abc import Iterator
from typing import Any

import requests
from docker import auth
from docker.errors import APIError, DockerException
from urllib3.exceptions import ReadTimeoutError

from cellwork.errors import ImageUnavailable, StartTimeout
from cellwork_worker.launch import Launch

from .engine import Engine, answer


def pull(engine: Engine, launch: Launch, deadline: float) -> float:
    """Pull the launch's image, with the logins of the worker's own Docker configuration (``docker login``).

    Args:
        deadline: by `time.monotonic`.

    Returns:
        Seconds that it took.

    Raises:
        ImageUnavailable: no such image, or denied, or no registry.
        StartTimeout: still pulling at the deadline.
    """
    said = "no answer yet"
    begun = time.monotonic()
    try:
        for event in _events(engine, launch, deadline):
            said = str(event.get("error") or event.get("status") or said)
            if "error" in event:
                raise _unavailable(launch, said)
            if time.monotonic() > deadline:
                raise _late(launch, said)
    except requests.ReadTimeout as error:
        raise _late(launch, said) from error
    except requests.ConnectionError as error:
        # What requests makes of a timeout in the middle of a stream.
        if error.args and isinstance(error.args[0], ReadTimeoutError):
            raise _late(launch, said) from error
        raise
    except APIError as error:
        raise _unavailable(launch, answer(error)) from error
    return time.monotonic() - begun


def _events(engine: Engine, launch: Launch, deadline: float) -> Iterator[dict[str, Any]]:
    """What the engine says while it pulls (API, "ImageCreate"). Leaving the loop ends the pull."""
    client, spec = engine.client, launch.spec
    image = _tagged(spec.image or "")
    response = client.post(
        f"{client.base_url}/v{client.api_version}/images/create",
        params={"fromImage": image, "platform": spec.platform or ""},
        headers=_login(launch, image),
        stream=True,
        # Also between two events: a registry that hangs says nothing at all.
        timeout=max(deadline - time.monotonic(), 0.1),
    )
    with response:
        if not response.ok:
            raise _unavailable(launch, str(response.json().get("message")))
        for line in response.iter_lines():
            yield json.loads(line)


def _login(launch: Launch, image: str) -> dict[str, str]:
    """The engine's header for the image's registry; empty where the worker is not logged in there."""
    try:
        # Read anew: logins with tokens that expire are replaced while the worker runs.
        registry, _ = auth.resolve_repository_name(image)
        known = auth.load_config().resolve_authconfig(registry)
    except DockerException as error:
        raise _unavailable(launch, f"the login in Docker's configuration cannot be read: {error}") from error
    return {"X-Registry-Auth": auth.encode_header(known).decode()} if known else {}


def _tagged(image: str) -> str:
    # Without a tag the engine would pull every tag of the repository.
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _late(launch: Launch, said: str) -> StartTimeout:
    spec = launch.spec
    return StartTimeout(
        f"task {launch.task}: image {spec.image} was still being pulled after start_timeout={spec.start_timeout:g} s "
        f"({said}); pull it beforehand, or allow more time"
    )


def _unavailable(launch: Launch, why: str) -> ImageUnavailable:
    return ImageUnavailable(
        f"task {launch.task}: cannot pull image {launch.spec.image}: {why}. Check the name, log the worker's user in "
        f'to the registry (docker login), or load the image (docker load, docker build) and say pull="never"'
    )
