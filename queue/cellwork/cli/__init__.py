"""The command line: ``cellwork …``, and the same group as ``celery -A app cellwork …``."""

import sys
from typing import Any

try:
    import click
    import rich  # noqa: F401 - the commands draw with it; looked for here so that one message serves all
except ImportError as error:
    raise SystemExit(f"cellwork's command line needs click and rich ({error}); pip install cellwork[cli]") from None

from click.shell_completion import get_completion_class
from kombu.exceptions import OperationalError
from redis import RedisError

from cellwork.errors import CellworkError

from .cp import cp
from .dead import dead
from .demo import demo
from .doctor import doctor
from .exec_ import exec_
from .images import images
from .logs import logs
from .ps import ps
from .reap import reap
from .route import route
from .run import run
from .top import top
from .up import up
from .usage import usage
from .worker import worker

#: As ``--help`` shows them.
_SECTIONS = {
    "Get going": (up, demo, doctor, worker),
    "Tasks and their sandboxes": (run, ps, logs, exec_, cp),
    "The whole installation": (route, usage, dead, reap, images, top),
}


class _Group(click.Group):
    """Tells an expected error in one line, also where ``celery -A app cellwork`` calls it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CellworkError as error:
            raise click.ClickException(str(error)) from error
        except (RedisError, OperationalError) as error:
            raise click.ClickException(
                f"Redis (broker_url or result_backend) does not do what is needed: {error}; cellwork doctor -A … says "
                f"which and why"
            ) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(one.name), one.get_short_help_str(width)) for one in commands])


def _completion(context: click.Context, option: click.Parameter, shell: str | None) -> None:
    if shell is not None and (kind := get_completion_class(shell)) is not None:
        click.echo(kind(cellwork, {}, "cellwork", "_CELLWORK_COMPLETE").source())
        context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    expose_value=False,
    is_eager=True,
    callback=_completion,
    help='Print the completion of this shell: eval "$(cellwork --completion bash)".',
)
@click.version_option(package_name="cellwork")
def cellwork() -> None:
    """A task queue on Celery and Redis; every task runs in a fresh sandbox.

    Most commands want to know your application: -A module, as for celery -A. All take --json, and all are there as
    "celery -A module cellwork …", too. "cellwork COMMAND --help" explains one.
    """


for _command in (one for commands in _SECTIONS.values() for one in commands):
    cellwork.add_command(_command)


def main() -> None:
    """Entry point; an expected error is one line on standard error and exit status 1."""
    try:
        # A command's own exit status; click raises no Exit where it is not standalone.
        sys.exit(cellwork.main(prog_name="cellwork", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
