from functools import partial

from django.db import transaction
from django.forms import modelform_factory
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from .models import Report
from .tasks import analyse, give_up, save

ReportForm = modelform_factory(Report, fields=["text"])


@require_http_methods(["GET", "HEAD", "POST"])
def index(request):
    """The form, and what was asked so far."""
    form = ReportForm(request.POST or None)
    if form.is_valid():
        report = form.save()
        transaction.on_commit(partial(enqueue, report))
        return redirect("detail", pk=report.pk)
    return render(request, "reports/index.html", {"form": form, "reports": Report.objects.order_by("-pk")[:10]})


@require_safe
def detail(request, pk):
    """The state of one; the page asks again until it is done."""
    return render(request, "reports/detail.html", {"report": get_object_or_404(Report, pk=pk)})


def enqueue(report):
    """Send it, once the transaction that made the report is over: the worker must find it."""
    (analyse.s(report.text) | save.s(report.pk)).on_error(give_up.s(report.pk)).apply_async()
