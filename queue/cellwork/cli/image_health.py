"""What ``cellwork doctor`` says of the images that an application's tasks use, and of their registries."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery

from cellwork import settings
from cellwork import spec as specs
from cellwork.errors import CellworkError
from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec


def images_used(app: Celery) -> dict[str, tuple[ContainerSpec, bool]]:
    """By name: what a task says that uses it, and whether the app declares how it is built."""
    app.loader.import_default_modules()
    app.finalize(auto=True)
    defaults = settings.load(app).defaults
    found: dict[str, tuple[ContainerSpec, bool]] = {}
    for name in sorted(app.tasks):
        task: Any = app.tasks[name]
        spec = specs.merge(defaults, getattr(task, "cellwork_spec", ContainerSpec()))
        if spec.image and not name.startswith(("celery.", "cellwork.")) and spec.executor in (None, "docker"):
            found.setdefault(spec.image, (spec, getattr(task, "cellwork_image", None) is not None))
    return found


def images_health(app: Celery) -> Iterator[dict[str, Any]]:
    """The images with digest and size, then the registries that they name. Rows; none without engine."""
    used = images_used(app)
    try:
        docker: Any = importlib.import_module("cellwork_worker.executors.docker")
        built: Any = importlib.import_module("cellwork_worker.executors.docker.built")
        engine = docker.Engine()
        there = {name: docker.ImageBuilder(engine).inspect(name) for name in used}
    except (ImportError, CellworkError):
        return  # the row of the engine says why
    facts, problems = {}, []
    for name, (spec, declared) in used.items():
        facts[name] = _told(there[name], declared)
        if there[name] is None and not declared and spec.pull == "never":
            problems.append(f'{name} is not on the engine, and its task says pull="never"; docker load it, or build it')
    detail = "; ".join(problems) or f"{len(used)} used, {sum(one is not None for one in there.values())} on this engine"
    yield {"what": "images", "ok": not problems, "detail": detail, "facts": facts}
    yield from _registries(built, engine, {name: one is None for name, one in there.items()})


def _told(image: dict[str, Any] | None, declared: bool) -> str:
    if image is None:
        return "missing; " + (
            "cellwork images build builds it, or the first task" if declared else "pulled when needed"
        )
    digests = [str(one).partition("@")[2] for one in image.get("RepoDigests") or ()]
    return f"{format_bytes(image['Size'])}, {(digests or [str(image['Id'])])[0]}"


def _registries(built: Any, engine: Any, missing: dict[str, bool]) -> Iterator[dict[str, Any]]:
    """One row for all: each is asked, through the engine, for one image of the app, a missing one first."""
    asked: dict[str, str] = {}
    for name in sorted(missing, key=lambda one: not missing[one]):
        if (registry := built.registry_of(name)) is not None:
            asked.setdefault(registry, name)
    if not asked:
        return

    def ask(name: str) -> str:
        try:
            return f"has {name} as {built.registry_digest(engine, name)}"
        except CellworkError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        facts = dict(zip(asked, pool.map(ask, asked.values()), strict=True))
    silent = [registry for registry, said in facts.items() if not said.startswith("has ")]
    stuck = [registry for registry in silent if missing[asked[registry]]]
    detail = f"{len(facts) - len(silent)} of {len(facts)} give what is asked for"
    if silent:
        detail += f"; not: {', '.join(silent)}" + ("" if stuck else " (the images are here)")
    yield {"what": "registry", "ok": not stuck, "detail": detail, "facts": facts}
