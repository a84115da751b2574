"""Sandboxes as pods of a Kubernetes cluster."""

from .executor import KubernetesExecutor, Limits

__all__ = ["KubernetesExecutor", "Limits"]
