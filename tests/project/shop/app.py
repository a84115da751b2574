"""The Celery application of the tests. Broker and backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND."""

import os

from celery import Celery

from cellwork import configure

IMAGE = "cellwork/python:base"
OTHER_IMAGE = "cellwork/python:other"
BUSYBOX = "cellwork/busybox:base"

app = configure(
    Celery("shop", include=["shop.tasks", "shop.attacks", "shop.hostile", "shop.commands", "shop.talk", "shop.secret"]),
    installation=os.environ.get("SHOP_INSTALLATION", "tests"),
    defaults={"image": IMAGE, "memory": "128m", "pull": "never"},
    kill_grace=2.0,
    infra_backoff=0.1,
    **({"policy": {"volumes": os.environ["SHOP_VOLUMES"].split()}} if "SHOP_VOLUMES" in os.environ else {}),
)
app.conf.update(worker_send_task_events=True, task_track_started=True, task_soft_time_limit=None)
if "SHOP_KEYPREFIX" in os.environ:
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "global_keyprefix": os.environ["SHOP_KEYPREFIX"],
    }
