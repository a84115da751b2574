"""The command line: ``cellwork …``, and the same group as ``celery -A app cellwork …``."""

import sys
from typing import Any

try:
    import click
    import rich  # noqa: F401 - the commands draw with it; looked for here so that one message serves all
except ImportError as error:
    raise SystemExit(f"cellwork's command line needs click and rich ({error}); pip install cellwork[cli]") from None

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


class _Group(click.Group):
    """Tells an expected error in one line, also where ``celery -A app cellwork`` calls it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CellworkError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cellwork")
def cellwork() -> None:
    """A task queue on Celery and Redis; every task runs in a fresh sandbox."""


cellwork.add_command(up)
cellwork.add_command(demo)
cellwork.add_command(doctor)
cellwork.add_command(ps)
cellwork.add_command(logs)
cellwork.add_command(exec_)
cellwork.add_command(cp)
cellwork.add_command(dead)
cellwork.add_command(reap)
cellwork.add_command(images)
cellwork.add_command(route)
cellwork.add_command(run)
cellwork.add_command(top)
cellwork.add_command(usage)


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
