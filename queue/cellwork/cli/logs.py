"""``cellwork logs``: what a task printed, or prints now."""

import json
import re
from datetime import UTC, datetime, timedelta

import click

from cellwork.errors import LogsUnavailable
from cellwork.logs import LogLine
from cellwork.logs import logs as read
from cellwork.printable import printable

from . import application, completions

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


class Moment(click.ParamType):  # type: ignore[type-arg]
    """``90``, ``90s``, ``1h30m``, ``2d``: so long ago; or a time as in ISO 8601, local where it names no zone."""

    name = "moment"

    def convert(self, value: str | datetime, param: click.Parameter | None, context: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if value and (found := _DURATION.fullmatch(value)):
            days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
            try:
                return datetime.now(UTC) - timedelta(days, seconds, minutes=minutes, hours=hours)
            except OverflowError:
                self.fail(f"{value!r} is too long ago", param, context)
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError:
            self.fail(f"{value!r}: say 90s, 10m, 1h30m, 2d, or a time such as 2026-11-23T14:00:00Z", param, context)


@click.command(short_help="What a task printed, or prints now (-f).")
@click.argument("task_id", metavar="ID", shell_complete=completions.task_ids)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--since", type=Moment(), default=None, help="Nothing before: 10m, 1h30m, or an ISO 8601 time.")
@click.option("-t", "--timestamps", is_flag=True, help="Each line with its time.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object a line.")
@click.pass_context
def logs(
    context: click.Context,
    task_id: str,
    name: str | None,
    follow: bool,
    since: datetime | None,
    timestamps: bool,
    as_json: bool,
) -> None:
    """Show what the task with this ID printed; its errors go to standard error.

    What a terminal would obey (control characters, escape sequences) is shown escaped.
    """
    app = application.given(context, name)
    nothing = True
    try:
        for line in read(task_id, app=app, follow=follow, since=since):
            nothing = False
            if as_json:
                click.echo(json.dumps(_document(line)))
            else:
                click.echo(_shown(line, timestamps), err=line.stream != "stdout")
    except LogsUnavailable as error:
        raise click.ClickException(str(error)) from error
    if nothing and not as_json:
        click.echo(f"nothing is kept of what task {printable(task_id)} printed, if it did", err=True)


def _shown(line: LogLine, timestamps: bool) -> str:
    when = f"{line.time.astimezone().isoformat(timespec='milliseconds')} " if timestamps else ""
    return when + (f"[{line.text}]" if line.stream == "cellwork" else printable(line.text))


def _document(line: LogLine) -> dict[str, object]:
    return {"time": line.time.isoformat(), "stream": line.stream, "attempt": line.attempt, "text": line.text}
