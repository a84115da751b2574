"""A worker that dies after its task's outcome, and before what comes after it, leaves that to the next one."""

import base64
from collections.abc import Iterator

import pytest
import redis
from celery import Celery, chord
from celery.app.task import Context
from kombu.utils.json import loads
from waiting import wait_until

from cellwork_worker import canvas


@pytest.fixture
def app(broker) -> Iterator[Celery]:
    app = Celery("canvas", broker=f"{broker}/0", backend=f"{broker}/1", set_as_current=False)

    @app.task(name="canvas.body", shared=False)
    def body(values):
        return values

    @app.task(name="canvas.member", shared=False)
    def member(value):
        return value

    yield app
    app.close()


@pytest.fixture
def client(broker) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(f"{broker}/0")
    yield client
    client.delete("canvas")


def member_of_a_chord(app: Celery, client: redis.Redis) -> Context:
    """The context of the chord's only member."""
    body = app.tasks["canvas.body"].s().set(queue="canvas")
    chord([app.tasks["canvas.member"].s(1).set(queue="canvas")], body, app=app).apply_async()
    message = loads(client.rpop("canvas"))
    args, kwargs, embed = loads(base64.b64decode(message["body"]))
    return Context({**message["headers"], **embed, "delivery_info": {}}, args=args, kwargs=kwargs)


def test_a_chords_body_is_sent_once_its_dead_senders_claim_has_run_out(app, client):
    request = member_of_a_chord(app, client)
    backend = app.backend
    claim = backend.get_key_for_group(request.group, ".c")
    backend.client.set(claim, "of a worker that died", px=700)
    meta = {"status": "SUCCESS", "result": 1, "traceback": None}
    waited = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        wait_until(lambda: not backend.client.exists(claim), what="the claim to run out")
        return False

    assert canvas.resume(backend, request, meta, wait)
    assert len(waited) == 1
    assert client.llen("canvas") == 1
    # And one more time, as by a third worker: no second body.
    assert canvas.resume(backend, request, meta, wait)
    assert (len(waited), client.llen("canvas")) == (1, 1)


def test_a_worker_that_is_to_end_does_not_wait_for_a_chord(app, client):
    request = member_of_a_chord(app, client)
    app.backend.client.set(app.backend.get_key_for_group(request.group, ".c"), "of a worker that died", px=60_000)
    meta = {"status": "SUCCESS", "result": 1, "traceback": None}
    assert not canvas.resume(app.backend, request, meta, lambda seconds: True)
    assert client.llen("canvas") == 0
