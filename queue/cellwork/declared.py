"""The images that an application's tasks declare."""

from collections.abc import Mapping
from typing import Any

import msgspec

from .image import Image


class Declared(msgspec.Struct, frozen=True):
    """An image, and who wants it."""

    tag: str
    image: Image
    #: Names of tasks; ``(defaults)`` for the installation's default.
    tasks: tuple[str, ...]


def images(app: Any) -> dict[str, Declared]:
    """By the tag that they had when they were declared, in the order of their first task's name.

    Loads the app's modules.
    """
    app.loader.import_default_modules()
    app.finalize(auto=True)
    tasks = [(name, app.tasks[name]) for name in sorted(app.tasks)]
    wanted = [
        (name, task.cellwork_spec.image, task.cellwork_image) for name, task in tasks if hasattr(task, "cellwork_image")
    ]
    defaults = (app.conf.get("cellwork") or {}).get("defaults")
    if isinstance(defaults, Mapping) and isinstance(image := defaults.get("image"), Image):
        wanted.append(("(defaults)", image.tag, image))
    found: dict[str, Declared] = {}
    for name, tag, image in wanted:
        if image is not None:
            others = found[tag].tasks if tag in found else ()
            found[tag] = Declared(tag, image, (*others, name))
    return found
