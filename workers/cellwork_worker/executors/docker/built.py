"""Images that were built from declarations, as the engine has them: listing, pushing, removing."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from docker import auth
from docker.errors import APIError

from cellwork.errors import ImageUnavailable

from .build import ImageBuilder
from .engine import Engine, answer


class Built(msgspec.Struct, frozen=True):
    """One of them."""

    id: str
    tags: tuple[str, ...]
    #: Bytes, with its base.
    size: int
    #: Seconds since the epoch.
    created: int
    repository: str
    #: The Dockerfile that it was built from.
    dockerfile: str


def built(engine: Engine, app: str) -> list[Built]:
    """Those of the application of that name, newest first.

    Raises:
        EngineUnavailable: no engine answers.
    """
    with engine.errors("to list images"):
        found = engine.client.images(filters={"label": f"cellwork.app={app}"})
    rows = [
        Built(
            id=one["Id"],
            tags=tuple(tag for tag in one["RepoTags"] or () if tag != "<none>:<none>"),
            size=one["Size"],
            created=one["Created"],
            repository=one["Labels"].get("cellwork.image", ""),
            dockerfile=one["Labels"].get("cellwork.dockerfile", ""),
        )
        for one in found
    ]
    return sorted(rows, key=lambda one: -one.created)


def remove(engine: Engine, name: str) -> str | None:
    """Remove an image, by tag or id; what speaks against it, where a container uses it."""
    try:
        with engine.errors(f"to remove image {name}"):
            engine.client.remove_image(name)
    except APIError as error:
        if error.status_code not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            raise
        return answer(error) if error.status_code == HTTPStatus.CONFLICT else None
    return None


def push(engine: Engine, tag: str, reference: str, say: Callable[[int, int], None] = lambda done, of: None) -> str:
    """Push an image under another name, which it keeps; return ``name@sha256:…``, which means these bytes for ever.

    Args:
        say: is told how many bytes are sent, and how many are to be, as far as is known.

    Raises:
        ImageUnavailable: it is not built, or the registry does not take it.
        EngineUnavailable: no engine answers.
    """
    if not ImageBuilder(engine).has(tag):
        raise ImageUnavailable(f"image {tag} is not on the engine at {engine.address}; cellwork images build makes it")
    repository, _, version = reference.rpartition(":")
    digest = ""
    layers: dict[str, tuple[int, int]] = {}
    with engine.errors(f"to push image {reference}"):
        engine.client.tag(tag, repository, version)
        registry, _ = auth.resolve_repository_name(reference)
        known = auth.load_config().resolve_authconfig(registry)
        for event in engine.client.push(repository, version, stream=True, decode=True, auth_config=known or {}):
            if size := (event.get("progressDetail") or {}).get("total"):
                layers[str(event.get("id"))] = int(event["progressDetail"].get("current") or 0), int(size)
                say(sum(min(sent, of) for sent, of in layers.values()), sum(of for _, of in layers.values()))
            digest = str((event.get("aux") or {}).get("Digest") or digest)
            if "error" in event:
                raise ImageUnavailable(
                    f"image {reference} cannot be pushed: {event['error']}. Check that the registry runs and takes it "
                    f"(docker login {registry})"
                )
    return f"{repository}@{digest}"


def registry_of(image: str) -> str | None:
    """The registry that an image's name says; None: it says none, so only Docker Hub could have it."""
    registry, _ = auth.resolve_repository_name(image)
    return None if registry == auth.INDEX_NAME else str(registry)


def registry_digest(engine: Engine, image: str) -> str:
    """What the image's registry has under its name, as the engine sees it.

    Raises:
        ImageUnavailable: the registry does not answer, or does not have it.
        EngineUnavailable: no engine answers.
    """
    try:
        with engine.errors(f"to ask for image {image} in its registry"):
            known = auth.load_config().resolve_authconfig(registry_of(image) or auth.INDEX_NAME)
            return str(engine.client.inspect_distribution(image, auth_config=known or {})["Descriptor"]["digest"])
    except APIError as error:
        raise ImageUnavailable(f"{image}: {answer(error)}; docker login {registry_of(image) or ''}?") from error


def python_version(engine: Engine, image: str) -> tuple[str, str]:
    """What ``python3`` of an image is: its version, such as ``3.11``, and its platform tag.

    Raises:
        ImageUnavailable: the image is not there, or has no Python.
    """
    script = "import json,sys,sysconfig;print(json.dumps(['%d.%d'%sys.version_info[:2],sysconfig.get_platform()]))"
    try:
        with engine.errors(f"to look into image {image}"):
            client = engine.client
            config = client.create_host_config(network_mode="none", mem_limit="256m", pids_limit=64)
            made = client.create_container(
                image, ["python3", "-c", script], entrypoint="", host_config=config, user="65534"
            )
            try:
                client.start(made)
                client.wait(made, timeout=60)
                said: Any = json.loads(client.logs(made, stdout=True, stderr=False)[:1000])
            finally:
                client.remove_container(made, force=True)
    except (APIError, json.JSONDecodeError) as error:
        why = answer(error) if isinstance(error, APIError) else "its python3 does not run"
        raise ImageUnavailable(f"image {image}: {why}; give --base an image of the engine with Python") from error
    return str(said[0]), str(said[1])
