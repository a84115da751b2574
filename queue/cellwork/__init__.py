"""cellwork: a task queue on Celery and Redis in which every task runs in a fresh, isolated sandbox."""

from .app import configure
from .command import command
from .current import current
from .image import Image
from .imports import image_imports
from .logs import logs
from .spec import ContainerSpec

__all__ = ["ContainerSpec", "Image", "__version__", "command", "configure", "current", "image_imports", "logs"]

__version__ = "0.1.0"
