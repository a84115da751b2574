"""The project's Celery application: settings are Django's, with CELERY_ in front."""

import os

from celery import Celery

from cellwork import configure

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

app = configure(
    Celery("mysite"), defaults={"image": os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim"), "memory": "128m"}
)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
