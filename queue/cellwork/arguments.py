"""Arguments that JSON cannot carry: which one it is. Looked for only after sending has failed."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from .errors import InvalidArgument

#: What kombu's JSON carries (datetime is a date); anything with ``__json__`` too.
_CARRIED = (str, int, float, bool, type(None), bytes, date, time, Decimal, uuid.UUID)

_ACCEPTED = "str, int, float, bool, None, list, tuple, dict, bytes, datetime, date, time, Decimal and UUID"


def invalid_argument(task: str, args: Any, kwargs: Any, error: Exception) -> InvalidArgument | None:
    """The error for the first argument that cannot be carried; None: all can, so `error` is about something else."""
    for path, value in (*_uncarried("args", list(args or ())), *_uncarried("kwargs", dict(kwargs or {}))):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return InvalidArgument(
            f"task {task}: {path} is {value!r:.80}, of type {kind}, which JSON cannot carry; arguments "
            f"may be {_ACCEPTED}"
        )
    return None


def _uncarried(path: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str | int | float | bool | type(None)):
                yield f"a key of {path}", key
            yield from _uncarried(f"{path}[{key!r}]", item, depth + 1) if depth < 100 else ()
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _uncarried(f"{path}[{number}]", item, depth + 1) if depth < 100 else ()
    elif not isinstance(value, _CARRIED) and not hasattr(value, "__json__"):
        yield path, value
