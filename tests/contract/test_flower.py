"""Private parts of Flower that cellwork.flower uses; written against Flower 2.2.

Where one of these fails after an upgrade, look at docs/monitoring.md, "How it gets into Flower".
"""

import inspect

import flower
import prometheus_client
from celery.events.state import Task
from celery.worker import request, strategy
from flower import app, command, events, urls
from flower.options import options
from flower.utils import tasks as task_utils
from flower.views import BaseHandler, monitor, tasks
from tornado.web import RequestHandler


def test_this_is_the_version_it_was_written_against():
    assert flower.__version__.startswith("2.2.")
    assert prometheus_client.__name__


def test_handlers_and_settings_are_read_when_flower_starts():
    assert app.default_handlers is urls.handlers
    assert command.settings is urls.settings
    assert "Flower(capp=app, options=options, **settings)" in inspect.getsource(command.flower.callback)
    assert 'if "template_loader" in settings' in inspect.getsource(RequestHandler.create_template_loader)


def test_metrics_are_made_late_by_their_name():
    assert "PROMETHEUS_METRICS = PrometheusMetrics()" in inspect.getsource(events.get_prometheus_metrics)
    source = inspect.getsource(events.EventsState.event)
    assert "self.metrics.observe_task(worker, event, task)" in source
    assert "self.metrics.observe_worker(worker, event)" in source
    assert "worker_names" in inspect.signature(events.PrometheusMetrics.remove_workers).parameters


def test_pages_show_every_field_of_celerys_task():
    assert "for name in task._fields" in (urls.settings["template_path"] and _template("task.html"))
    assert "task.as_dict()" in inspect.getsource(task_utils.as_dict)
    assert "self._fields" in inspect.getsource(Task.as_dict)
    assert "self.__dict__.update(fields)" in inspect.getsource(Task.event)
    assert isinstance(tasks.TASK_COLUMNS, dict)
    assert options._normalize_name("tasks_columns") in options._options


def test_templates_have_the_blocks_that_ours_extend():
    assert "{% block navbar %}" in _template("base.html")
    assert "{% block container %}" in _template("base.html")
    assert "{% block extra_scripts %}" in _template("base.html")
    assert 'class="detail-actions"' in _template("task.html")
    assert 'class="app-nav navbar-nav"' in _template("navbar.html")


def test_the_login_is_flowers():
    assert "basic_auth" in inspect.getsource(BaseHandler.get_current_user)
    assert "authenticated" not in inspect.getsource(monitor.Metrics), "its /metrics is open, ours is not"


def test_celery_takes_a_tasks_own_request_class_and_tells_events_through_it():
    assert "symbol_by_name(task.Request)" in inspect.getsource(strategy.default)
    assert "self._eventer.send(type, uuid=self.id, **fields)" in inspect.getsource(request.Request.send_event)
    assert "self.send_event('task-started')" in inspect.getsource(request.Request.on_accepted)


def test_celerys_request_class_reads_limits_once_so_the_pool_reads_them_itself():
    source = inspect.getsource(request.create_request_cls)
    assert "default_time_limit = task.time_limit" in source
    assert "args=(self.type, task_id, self.request_dict" in source


def _template(name: str) -> str:
    with open(f"{urls.settings['template_path']}/{name}") as file:
        return file.read()
