"""Sandboxes as containers on a Docker engine."""

from .demand import WarmLimits
from .executor import DockerExecutor

__all__ = ["DockerExecutor", "WarmLimits"]
