"""cellwork's pages in Flower, and what its own pages show more (docs/monitoring.md). Imported only where Flower is."""

from flower import events, urls
from flower.options import options
from flower.views import tasks

from . import fields, metrics
from .loader import Loader
from .pages import HANDLERS

#: The list of tasks, where nobody says otherwise. What is asked for most stands first: the rest is scrolled to.
_COLUMNS = (
    "name,uuid,state,outcome,received,runtime,peak_memory,executor,image,worker,sandbox,host,route,route_reason,"
    "time_queued,time_to_start,time_running,CPU_time,exit_status,image_digest"
)


def install() -> None:
    """Give the Flower of this process our pages. Its options, and flowerconfig.py, may be read before or after.

    `cellwork.configure` calls it where Flower is imported already, under ``celery -A … flower``.
    """
    if isinstance(urls.settings.get("template_loader"), Loader):
        return
    fields.add()
    tasks.TASK_COLUMNS.update(fields.COLUMNS)
    options._options[options._normalize_name("tasks_columns")].default = _COLUMNS
    # In front: the last one of Flower's takes every path, and /metrics is ours to guard.
    urls.handlers[:0] = HANDLERS
    urls.settings["template_loader"] = Loader()
    # Made when Flower's own are, once its options are known.
    events.PrometheusMetrics = metrics.Metrics
