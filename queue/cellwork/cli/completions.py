"""What a shell's TAB offers: ids and names of tasks; nothing, where Redis or the application is not there."""

import contextlib
import importlib
import io
from collections.abc import Callable, Iterable, Iterator

import click
from celery import Celery
from celery.app.task import Task
from click.shell_completion import CompletionItem

from cellwork import configure
from cellwork.broker import Broker
from cellwork.deadletter import DeadLetters
from cellwork.running import ask, rows
from cellwork.usagestore import UsageStore

from . import application

#: Seconds that a broker has to answer at all: somebody waits with a half-typed line.
_PATIENCE = 0.5

#: Runs that ended last, among which ids are looked for.
_RECENT = 50

_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offers(find: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> _Complete:
    """A completion of pairs: a value, and what a shell may show beside it."""

    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        found: dict[str, str] = {}
        # The application's own modules may print, or raise anything: neither belongs into a half-typed line.
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), contextlib.suppress(Exception):
            for value, about in find(context, begun):
                found.setdefault(value, about)
        return [CompletionItem(value, help=about) for value, about in found.items() if value.startswith(begun)]

    return complete


def _app(context: click.Context) -> Celery:
    """That of ``-A``, wherever it stands in the line; else what the environment says."""
    here: click.Context | None = context
    while here is not None:
        if name := here.params.get("name") or here.params.get("application_name"):
            return application.load(str(name))
        here = here.parent
    return configure(Celery("cellwork"))


@contextlib.contextmanager
def _broker(context: click.Context) -> Iterator[tuple[Celery, Broker | None]]:
    """None: it does not answer."""
    app = _app(context)
    if not application.answers(str(app.conf.broker_url), _PATIENCE):
        yield app, None
        return
    broker = Broker(app)
    try:
        yield app, broker
    finally:
        broker.close()


def _running(app: Celery, broker: Broker) -> Iterator[tuple[str, str]]:
    # Of those that live: it ends as soon as they have all answered.
    workers = broker.living()
    for row in rows(ask(app, workers)) if workers else ():
        yield row["task_id"], f"{row['task']}, runs"


def _sandboxes(context: click.Context, _: str) -> Iterator[tuple[str, str]]:
    with _broker(context) as (app, broker):
        if broker is not None:
            yield from _running(app, broker)


def _tasks_ids(context: click.Context, _: str) -> Iterator[tuple[str, str]]:
    with _broker(context) as (app, broker):
        if broker is not None:
            yield from _running(app, broker)
            for run in UsageStore(broker).newest(_RECENT):
                yield run.task_id, f"{run.task}, {run.outcome}"


def _dead(context: click.Context, _: str) -> Iterator[tuple[str, str]]:
    with _broker(context) as (_app, broker):
        if broker is not None:
            for letter in DeadLetters(broker).all():
                yield letter.task_id, letter.task


def _names(context: click.Context, _: str) -> Iterator[tuple[str, str]]:
    app = _app(context)
    app.loader.import_default_modules()
    for name in sorted(app.tasks):
        if not name.startswith("celery."):
            yield name, ""


def _targets(context: click.Context, begun: str) -> Iterator[tuple[str, str]]:
    """``MODULE:TASK``, once the module is typed."""
    module, colon, _ = begun.partition(":")
    if colon:
        application.look_here()
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, Task):
                yield f"{module}:{name}", str(value.name)


def _ends(context: click.Context, begun: str) -> Iterator[tuple[str, str]]:
    """Of a copy: a sandbox."""
    for task_id, about in _sandboxes(context, begun):
        yield f"{task_id}:", about


def files_or_sandboxes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """One end of a copy: a running sandbox, or a path of this machine."""
    return [*_offers(_ends)(context, parameter, begun), CompletionItem(begun, type="file")]


#: Ids of tasks that run, or ran lately; of those that run; and of dead letters.
task_ids, running_ids, dead_ids = _offers(_tasks_ids), _offers(_sandboxes), _offers(_dead)

#: Names of the application's tasks, and MODULE:TASK.
task_names, targets = _offers(_names), _offers(_targets)
