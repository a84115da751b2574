"""Sandboxes as containers on a Docker engine."""

from .executor import DockerExecutor

__all__ = ["DockerExecutor"]
