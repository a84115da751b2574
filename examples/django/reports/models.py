from django.db import models


class Report(models.Model):
    """One text, and what was found in it."""

    class State(models.TextChoices):
        WAITING = "waiting"
        DONE = "done"
        FAILED = "failed"

    text = models.TextField(max_length=100_000)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    findings = models.JSONField(default=dict)
    created = models.DateTimeField(auto_now_add=True)
