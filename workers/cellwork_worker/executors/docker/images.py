"""Pulling an image, within the time that a task's sandbox may take to start."""

import time

from docker.errors import APIError

from cellwork.errors import ImageUnavailable, StartTimeout
from cellwork_worker.launch import Launch

from .engine import Engine, answer


def pull(engine: Engine, launch: Launch, deadline: float) -> None:
    """Pull the launch's image. `deadline`: by `time.monotonic`.

    Raises:
        ImageUnavailable: no such image, or denied, or no registry.
        StartTimeout: still pulling at the deadline.
    """
    spec = launch.spec
    image, said = spec.image or "", ""
    try:
        for event in engine.client.pull(_tagged(image), platform=spec.platform, stream=True, decode=True):
            said = str(event.get("error") or event.get("status") or said)
            if "error" in event:
                raise _unavailable(launch, said)
            if time.monotonic() > deadline:
                raise StartTimeout(
                    f"task {launch.task}: image {image} was still being pulled after "
                    f"start_timeout={spec.start_timeout:g} s ({said}); pull it beforehand, or allow more time"
                )
    except APIError as error:
        raise _unavailable(launch, answer(error)) from error


def _tagged(image: str) -> str:
    # Without a tag the engine would pull every tag of the repository.
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _unavailable(launch: Launch, why: str) -> ImageUnavailable:
    return ImageUnavailable(
        f"task {launch.task}: cannot pull image {launch.spec.image}: {why}. Check the name, log the engine in to the "
        f'registry, or load the image (docker load, docker build) and say pull="never"'
    )
