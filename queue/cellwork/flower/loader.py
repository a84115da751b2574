"""Templates: ours, and Flower's where we have none of that name. ``flower:NAME`` is Flower's in any case."""

from pathlib import Path
from typing import Any

from flower import urls
from tornado import template

_OURS = Path(__file__).parent / "templates"
_PREFIX = "flower:"


class Loader(template.Loader):
    """So that a page of Flower's can be extended without a copy of it."""

    def __init__(self) -> None:
        super().__init__(str(_OURS), autoescape="xhtml_escape")

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Names are flat, in both folders."""
        return name

    def _create_template(self, name: str) -> template.Template:
        path = _OURS / name
        if name.startswith(_PREFIX) or not path.exists():
            path = Path(str(urls.settings["template_path"])) / name.removeprefix(_PREFIX)
        arguments: dict[str, Any] = {"name": name, "loader": self}
        return template.Template(path.read_bytes(), **arguments)
