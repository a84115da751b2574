"""Images that a test has built of what its application declares, and how the engine is rid of them."""

import contextlib

import docker
from docker.errors import ImageNotFound


def built(engine: docker.DockerClient, app: str) -> list[dict]:
    """The images of an application."""
    return engine.api.images(filters={"label": f"cellwork.app={app}"})


def remove(engine: docker.DockerClient, app: str) -> None:
    """Remove the images of an application, and what its builds left on the way."""
    for image in built(engine, app) + _leftovers(engine, app):
        # One may go with another that was made of it.
        with contextlib.suppress(ImageNotFound):
            engine.api.remove_image(image["Id"], force=True)


def _leftovers(engine: docker.DockerClient, app: str) -> list[dict]:
    """The engine's cache of the steps that a failed build did."""
    unnamed = engine.api.images(filters={"dangling": True})
    return [one for one in unnamed if f"PANTRY={app}" in _environment(engine, one["Id"])]


def _environment(engine: docker.DockerClient, image: str) -> list[str]:
    try:
        return engine.api.inspect_image(image)["Config"]["Env"] or []
    except ImageNotFound:
        return []  # somebody else's, who has removed it meanwhile
