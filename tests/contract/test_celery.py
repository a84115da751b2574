"""Private parts of Celery that the pool uses; written against Celery 5.7 and kombu 5.7.

Where one of these fails after an upgrade, look at docs/architecture.md, "Private parts of Celery that we use".
"""

import inspect
import json

import celery
import kombu
import pytest
from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.backends.base import Backend, KeyValueStoreBackend
from celery.backends.redis import RedisBackend
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks
from celery.worker import components, request, state
from celery.worker.consumer.tasks import Tasks
from kombu.asynchronous import Hub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.transport import redis, virtual

from cellwork import configure
from cellwork_worker import outcomes
from cellwork_worker.pool import _asks_retry

#: Its addresses would be taken before the arguments of the applications below.
pytestmark = pytest.mark.usefixtures("no_broker_named")


def test_these_are_the_versions_it_was_written_against():
    assert celery.__version__.startswith("5.7.")
    assert kombu.__version__.startswith("5.7.")


def test_autoretry_keeps_the_body_as_orig_run_and_looks_it_up_at_each_call():
    app = Celery(set_as_current=False)

    @app.task(autoretry_for=(KeyError,), max_retries=0, shared=False)
    def body():
        return "real"

    body._orig_run = lambda: "replaced"
    assert body.run() == "replaced"


def test_the_tracer_calls_run_as_it_is_when_it_is_built():
    app = Celery(set_as_current=False, broker="memory://")

    @app.task(shared=False)
    def body():
        return "real"

    body.run = lambda: "replaced"
    trace = build_tracer(body.name, body, app=app)
    assert trace("an-id", (), {}, {"is_eager": True, "delivery_info": {}}).retval == "replaced"


def test_a_declared_task_waits_with_its_function_and_its_options_until_it_is_used():
    app = Celery(set_as_current=False)
    options = {"name": "waits", "max_retries": 1}

    def body():
        return "real"

    function = app.task(shared=False, **options)(body)
    (proxy,) = app._pending
    assert proxy is function
    assert object.__getattribute__(proxy, "_Proxy__args") == (body,)
    waiting = object.__getattribute__(proxy, "_Proxy__kwargs")
    assert waiting == options
    waiting["max_retries"] = 2
    assert function.max_retries == 2


def test_the_pool_is_given_a_semaphore_and_the_workers_name():
    source = inspect.getsource(components.Pool.create)
    assert "semaphore=semaphore" in source
    assert "initargs=(w.app, w.hostname)" in source
    assert {"options", "limit", "app"} <= set(vars(BasePool(limit=1)))


def test_the_pool_is_called_with_these_callbacks():
    source = inspect.getsource(request.Request.execute_using_pool)
    for name in ("accept_callback", "timeout_callback", "callback", "error_callback", "soft_timeout", "timeout"):
        assert f"{name}=" in source
    assert "correlation_id=task_id" in source
    assert "self._request_dict" in source.split("args=(")[1].split(")")[0].split(",")[2], "retries are read from there"


def test_celery_keeps_a_weak_reference_to_what_the_pool_returns_and_calls_terminate():
    assert "obj.terminate(signal)" in inspect.getsource(request.Request.terminate)


def test_custom_headers_are_kept_and_are_given_to_a_retry():
    context = Context({"id": "x", "task": "t", "cellwork": {"spec": {"memory": 1}}})
    assert context.headers == {"cellwork": {"spec": {"memory": 1}}}
    assert context.as_execution_options()["headers"]["cellwork"] == {"spec": {"memory": 1}}


def test_a_semaphores_release_starts_who_waits():
    semaphore, ran = LaxBoundedSemaphore(1), []
    semaphore.acquire(ran.append, 1)
    semaphore.acquire(ran.append, 2)
    assert ran == [1]
    semaphore.release()
    assert ran == [1, 2]


def test_acks_that_wait_in_the_event_loop_can_be_run_without_it():
    class Message(kombu.Message):
        def ack_log_error(self):
            acked.append(self)

    acked: list[object] = []
    from vine import promise

    hub = Hub()
    message = Message(body="")
    hub.call_soon(promise(message.ack_log_error))
    _run_ready_callbacks(hub)
    hub.close()
    assert acked == [message]


def test_a_second_client_of_the_result_backend_can_have_other_timeouts():
    backend = Celery("x", backend="redis://127.0.0.1:1/7", set_as_current=False).backend
    client = backend._create_client(**{**backend.connparams, "socket_timeout": 1.5})
    settings = client.connection_pool.connection_kwargs
    assert (settings["socket_timeout"], settings["db"]) == (1.5, 7)
    client.close()


def test_the_trace_says_with_retry_that_a_task_runs_again():
    app = Celery("x", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(bind=True)
    def again(self):
        raise self.retry(countdown=1)

    request = {"id": "1", "delivery_info": {}, "args": (), "kwargs": {}, "called_directly": False}
    traced = build_tracer(again.name, again, app=app)("1", (), {}, request)
    assert _asks_retry((1, traced.retval, 0.0))
    assert not _asks_retry((0, "value", 0.0))


def test_the_pool_finds_the_request_behind_its_callback_and_the_message_behind_that():
    assert inspect.ismethod(request.Request.on_accepted.__get__(object()))
    source = inspect.getsource(request.Request)
    assert "def message(self)" in source
    assert "if not self.acknowledged" in source
    assert "def ignore_result(self)" in source
    assert next(iter(inspect.signature(state.task_ready).parameters)) == "request"
    assert isinstance(state.requests, dict)


def test_the_leases_find_the_messages_that_a_consumer_has_taken():
    from celery.apps.worker import Worker

    assert "signals.worker_ready.send(sender=consumer)" in inspect.getsource(Worker.on_consumer_ready)
    assert "c.task_consumer = c.app.amqp.TaskConsumer(" in inspect.getsource(Tasks.start)
    qos = virtual.QoS(channel=None)
    qos.append("message", "tag")
    assert list(qos._delivered) == ["tag"]
    # The base class's marks it in memory only; the Redis transport's own tells Redis first.
    qos.ack("tag")
    assert qos._dirty == {"tag"}
    assert redis.QoS.ack is not virtual.QoS.ack
    qos._on_collect.cancel()


def test_kombu_keeps_what_is_not_acknowledged_under_these_keys_and_scores_it_by_time():
    assert (redis.Channel.unacked_index_key, redis.Channel.visibility_timeout) == ("unacked_index", 3600)
    assert "time() - self.visibility_timeout" in inspect.getsource(redis.QoS.restore_visible)
    assert "{delivery_tag: time()}" in inspect.getsource(redis.QoS.append)


def test_every_stored_outcome_is_put_together_where_ours_is_added():
    assert "self._get_result_meta(result=result, state=state" in inspect.getsource(KeyValueStoreBackend._store_result)
    assert list(inspect.signature(Backend._get_result_meta).parameters)[:3] == ["self", "result", "state"]


def test_a_result_is_stored_as_celery_stores_it_but_in_one_step_and_never_over_a_success(broker, monkeypatch):
    source = inspect.getsource(
        getattr(KeyValueStoreBackend._store_result, "__wrapped__", KeyValueStoreBackend._store_result)
    )
    assert "current_meta['status'] == states.SUCCESS" in source
    assert list(inspect.signature(RedisBackend._store_result).parameters)[:6] == [
        "self", "task_id", "result", "state", "traceback", "request",
    ]  # fmt: skip
    # Taken back afterwards.
    monkeypatch.setattr(RedisBackend, "_store_result", RedisBackend._store_result)
    app = Celery(backend=f"{broker}/1", set_as_current=False, result_expires=100, result_failure_expires=50)
    backend, told = app.backend, []
    outcomes.store_at_once()
    key = backend.get_key_for_task("one").decode()
    with backend.client.pubsub() as listener:
        listener.subscribe(key)
        for state, value in (
            ("PROGRESS", {"done": 1}),
            ("FAILURE", KeyError("x")),
            ("SUCCESS", "y"),
            ("FAILURE", KeyError("z")),
        ):
            backend.store_result("one", value, state)
            told.append((backend.get_task_meta("one", cache=False)["status"], backend.client.ttl(key)))
        published = [message for _ in range(9) if (message := listener.get_message(timeout=0.1))]
    assert told == [("PROGRESS", 100), ("FAILURE", 50), ("SUCCESS", 100), ("SUCCESS", 100)]
    assert backend.get_task_meta("one", cache=False)["result"] == "y"
    assert [json.loads(message["data"])["status"] for message in published[1:]] == ["PROGRESS", "FAILURE", "SUCCESS"]


def test_a_channel_keeps_the_client_that_kombu_makes_anew_for_each_request(broker):
    assert "yield self._create_client()" in inspect.getsource(redis.Channel.conn_or_acquire)
    app = configure(Celery("channels", broker=f"{broker}/0", set_as_current=False))
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as another:
            assert one is another
            assert one.connection_pool is channel.pool
        channel._disconnect_pools()  # as after a broken connection
        with channel.conn_or_acquire() as anew:
            assert anew.connection_pool is channel.pool
            assert anew is not one
    app.close()
