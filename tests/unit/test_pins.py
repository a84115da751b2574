"""Images by digest, in what a producer sends."""

import json

import pytest
from celery import Celery

from cellwork import configure
from cellwork.errors import InvalidSetting

DIGEST = "registry.example/cellwork/shop@sha256:" + "0" * 64


def price() -> None: ...


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Send to a broker in memory with these options of task and call; give the message's spec."""
    file = tmp_path / "digests.json"
    file.write_text(json.dumps({"cellwork/shop:1": DIGEST}))

    def send(task: dict, call: dict, **settings: object) -> dict:
        app = configure(Celery("pins", broker="memory://", set_as_current=False), image_digests=str(file), **settings)
        app.conf.result_backend = "cache+memory://"
        declared = app.task(name="pins.price", shared=False, **task)(price)
        declared.apply_async(**call)
        with app.connection_for_read() as connection:
            spec = connection.SimpleQueue("docker").get(timeout=1).headers["cellwork"]["spec"]
        app.close()
        return spec

    return send


def test_a_message_names_the_digest_of_the_image_that_its_task_the_call_or_the_installation_says(sent):
    assert sent({"image": "cellwork/shop:1"}, {}) == {"image": DIGEST}
    assert sent({"image": "alpine:3"}, {"image": "cellwork/shop:1", "memory": "1g"}) == {
        "image": DIGEST,
        "memory": 1 << 30,
    }
    assert sent({}, {}, defaults={"image": "cellwork/shop:1"}) == {"image": DIGEST}


def test_other_images_and_those_of_tasks_with_secrets_are_not_touched(sent):
    assert sent({"image": "alpine:3"}, {}) == {}
    assert sent({"image": "cellwork/shop:1", "secrets": ("DB",)}, {}) == {}


def test_a_file_of_digests_that_cannot_be_read_is_told_when_something_is_sent(sent, tmp_path):
    (tmp_path / "digests.json").write_text("[]")
    with pytest.raises(InvalidSetting, match="cellwork images push --digests writes such a file"):
        sent({"image": "alpine:3"}, {})
