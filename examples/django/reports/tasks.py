"""Two kinds of tasks: the work, in a sandbox without Django and database; and what is written down, in the worker.

The sandbox imports this module, too, and has no Django: so models are imported where they are used.
"""

import re
from collections import Counter

from celery import shared_task


@shared_task(time_limit=30)
def analyse(text):
    """The words that a text has most often. In a fresh container: no database, no settings, no network."""
    words = re.findall(r"\w+", text.lower())
    return {"words": len(words), "most": Counter(words).most_common(5)}


@shared_task(executor="inline")
def save(findings, pk):
    """Store what came back. In the worker, which has the database; `findings` is data of a stranger."""
    from .models import Report

    Report.objects.filter(pk=pk).update(state=Report.State.DONE, findings=findings)


@shared_task(executor="inline")
def give_up(request, exc, traceback, pk):
    """Store that it failed. Celery calls it with these arguments, in the worker."""
    from .models import Report

    Report.objects.filter(pk=pk).update(state=Report.State.FAILED, findings={"error": str(exc)})
