"""Images by digest: what ``cellwork images push --digests FILE`` wrote, so that every executor runs the same bytes."""

from pathlib import Path
from typing import Any

import msgspec

from . import settings
from . import spec as specs
from .errors import InvalidSetting
from .spec import ContainerSpec


class Pins:
    """Name of an image, as tasks say it, to ``registry/name@sha256:…``."""

    def __init__(self, file: str | None, default: str | None) -> None:
        """`file`: setting ``image_digests``. `default`: the image of tasks that name none.

        Raises:
            InvalidSetting: it cannot be read, or is something else.
        """
        self._default = default
        self._digests: dict[str, str] = {}
        if file is None:
            return
        try:
            self._digests = msgspec.json.decode(Path(file).read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidSetting(
                f"image_digests={file!r} cannot be read: {error}; cellwork images push --digests writes such a file"
            ) from None

    def pin(self, declared: ContainerSpec, called: ContainerSpec) -> ContainerSpec:
        """What a message says: `called`, with the image's digest where that is known.

        A task with secrets keeps its declared image: no message may choose what is told them.
        """
        digest = self._digests.get(called.image or declared.image or self._default or "")
        kept = digest is None or declared.secrets or declared.secret_env
        return called if kept else specs.merge(called, ContainerSpec(image=digest))


def of(app: Any) -> Pins:
    """The app's, read once."""
    if (found := getattr(app, "_cellwork_pins", None)) is None:
        current = settings.load(app)
        found = app._cellwork_pins = Pins(current.image_digests, current.defaults.image)
    return found
