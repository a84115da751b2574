"""Command tasks: any image, no Python inside."""

from collections.abc import Callable
from typing import Any, Literal

from celery import Celery


def command(
    app: Celery,
    *,
    image: Any,
    name: str | None = None,
    result: Literal["text", "json", "none"] = "text",
    **options: Any,
) -> Callable[[Callable[..., list[str]]], Any]:
    """Declare a task whose function returns the command to run, as a list of strings.

    The function runs in the worker; the command runs in the sandbox, without a shell around it, and its arguments are
    never parsed again. A status other than 0 is `CommandFailed`, which carries the tail of what was printed.

    Args:
        app: the configured application.
        image: any image. Its entry point stays, as with ``docker run``; ``entrypoint=`` replaces it.
        name: the task's; default: module and function, as in Celery.
        result: what becomes of standard output: ``text`` (UTF-8), ``json``, or ``none``.
        **options: as for ``@app.task``.

    Raises:
        InvalidSpec: as for ``@app.task``.
    """

    def decorator(function: Callable[..., list[str]]) -> Any:
        if name is not None:
            options["name"] = name
        declare: Any = app.task
        return declare(image=image, result=result, cellwork_command=True, **options)(function)

    return decorator
