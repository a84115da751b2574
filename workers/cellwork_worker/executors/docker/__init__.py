"""Sandboxes as containers on a Docker engine."""

from .build import ImageBuilder
from .demand import WarmLimits
from .engine import Engine
from .executor import DockerExecutor

__all__ = ["DockerExecutor", "Engine", "ImageBuilder", "WarmLimits"]
