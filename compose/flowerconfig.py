"""Flower's configuration: `celery flower --conf`. Login, port and the like come from the environment (FLOWER_…)."""

from flower.urls import handlers
from flower.views.monitor import Metrics
from tornado.web import authenticated


class GuardedMetrics(Metrics):
    """Flower itself serves /metrics to everyone, whatever login it has."""

    get = authenticated(Metrics.get)


handlers[:] = [
    (handler[0], GuardedMetrics) if isinstance(handler, tuple) and handler[1] is Metrics else handler
    for handler in handlers
]
