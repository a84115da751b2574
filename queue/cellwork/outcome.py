"""Outcomes, as data: what a runner says of the body's end, parsed with limits. Nothing here evaluates anything."""

import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import msgspec

#: Deeper values are refused: Celery's encoder and a client's decoder are recursive.
MAX_DEPTH = 100


class InvalidDocument(ValueError):
    """Not the JSON that docs/protocol.md describes; the message says what is wrong."""


class Success(msgspec.Struct, frozen=True, tag_field="status", tag="success"):
    """The body returned `value`."""

    value: Any = None


class Failure(msgspec.Struct, frozen=True, tag_field="status", tag="error"):
    """The body raised. `type` is ``module.QualifiedName``."""

    type: str
    args: list[Any] = []
    text: str = ""
    traceback: str = ""


class RetryOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the body gave to ``retry``. `countdown` in seconds."""

    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    countdown: float | None = None
    eta: datetime | None = None
    max_retries: int | None = None


class RetryRequest(msgspec.Struct, frozen=True, tag_field="status", tag="retry"):
    """The body asks Celery to run it again."""

    options: RetryOptions
    error: Failure | None = None


class Invalid(msgspec.Struct, frozen=True, tag_field="status", tag="invalid-result"):
    """The body returned something that JSON cannot carry."""

    detail: str


class TooLarge(msgspec.Struct, frozen=True, tag_field="status", tag="result-too-large"):
    """What the body returned is too large. Both in bytes."""

    size: int
    limit: int


Outcome = Success | Failure | RetryRequest | Invalid | TooLarge


def parse(data: object) -> Outcome:
    """The outcome in the data of an ``outcome`` frame, already decoded by `loads`.

    Raises:
        InvalidDocument: it is none.
    """
    try:
        return msgspec.convert(data, Outcome)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise InvalidDocument(f"not an outcome: {error}") from None


def loads(text: str | bytes, *, extra_types: bool = True) -> object:
    """Decode JSON, with Celery's extra types (docs/protocol.md, "Values") unless `extra_types` is False.

    Only the types listed there are revived: types that an application registered with kombu are not, because a
    sandbox must not choose which of the worker's functions run.

    Raises:
        InvalidDocument: no JSON, a duplicate key, NaN, an unknown ``__type__``, or deeper than `MAX_DEPTH`.
    """
    hook = _revived if extra_types else _object
    try:
        value = json.loads(text, object_pairs_hook=hook, parse_constant=_refuse)
    except RecursionError:
        raise InvalidDocument(f"nested deeper than {MAX_DEPTH} levels") from None
    except (ValueError, ArithmeticError, LookupError, TypeError) as error:
        raise InvalidDocument(f"not JSON: {error}") from None
    _check_depth(value)
    return value


def _refuse(constant: str) -> object:
    raise InvalidDocument(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise InvalidDocument("an object has the same key twice")
    return mapping


def _revived(pairs: list[tuple[str, Any]]) -> object:
    mapping = _object(pairs)
    if mapping.keys() == {"__type__", "__value__"}:
        revive = _REVIVE.get(mapping["__type__"]) if isinstance(mapping["__type__"], str) else None
        if revive is None:
            raise InvalidDocument(f"unknown __type__ {mapping['__type__']!r:.40}")
        return revive(mapping["__value__"])
    return mapping


_REVIVE: dict[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": lambda value: Decimal(_text(value)),
    "uuid": lambda value: uuid.UUID(hex=_text(value["hex"])),
    "bytes": lambda value: _text(value).encode(),
    "base64": lambda value: base64.b64decode(_text(value), validate=True),
}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidDocument(f"a string was expected, not {type(value).__name__}")
    return value


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidDocument(f"nested deeper than {MAX_DEPTH} levels")
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
