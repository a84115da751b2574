"""Values: JSON with Celery's extra types (docs/protocol.md, "Values"); their modules are loaded when one is met."""

import binascii
import sys

from . import text

MAX_DEPTH = 100

#: Of a number: what Python refuses to read from text is longer.
_INT_BITS = 13_000

CARRIED = "str, int, float, bool, None, list, dict, bytes, datetime, date, time, Decimal and UUID"


class Invalid(Exception):
    """A value that JSON cannot carry; the message says which one, and where."""


def decode(value):
    """Plain JSON values → Python's, extra types revived."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"__type__", "__value__"}:
            return _revive(value["__type__"], value["__value__"])
        return {key: decode(item) for key, item in value.items()}
    return value


def _revive(kind, value):
    if kind == "bytes":
        return value.encode()
    if kind == "base64":
        return binascii.a2b_base64(value)
    if kind == "decimal":
        import decimal

        return decimal.Decimal(value)
    if kind == "uuid":
        import uuid

        return uuid.UUID(hex=value["hex"])
    import datetime

    if kind == "datetime":
        return datetime.datetime.fromisoformat(value)
    if kind == "date":
        return datetime.datetime.fromisoformat(value).date()
    if kind == "time":
        return datetime.time.fromisoformat(value)
    raise Invalid("unknown type %r in the payload" % (kind,))


def encode(value):
    """JSON text, ASCII.

    Raises:
        Invalid: JSON cannot carry it.
    """
    return text.dumps(_plain(value, "$", 0))


def _plain(value, path, depth):
    # Exact types first, and subclasses by their base: an enum or a numpy float must not bring a method of its own.
    if value is None or value is True or value is False:
        return value
    if depth > MAX_DEPTH:
        raise Invalid("%s is nested deeper than %d levels" % (path[:200], MAX_DEPTH))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > _INT_BITS:
            raise Invalid("%s is a number of more than 4,000 digits" % path)
        return int(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise Invalid("%s is %r, which JSON does not have; return None or a string instead" % (path, float(value)))
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, "%s[%d]" % (path, i), depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, _member(path, key), depth + 1) for key, item in value.items()}
    return _extra(value, path)


def _member(path, key):
    return "%s.%s" % (path, key) if isinstance(key, str) and key.isidentifier() else "%s[%.40r]" % (path, key)


def _key(key, path):
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, (bool, int, float)):
        return text.dumps(key)  # as Celery's own JSON does
    raise Invalid("a key of %s is %.80r, of type %s; keys must be strings" % (path, key, type(key).__name__))


def _extra(value, path):
    kind = _kind(value)
    if kind == "bytes":
        try:
            return _as("bytes", value.decode())
        except UnicodeDecodeError:
            return _as("base64", binascii.b2a_base64(value, newline=False).decode("ascii"))
    if kind in ("datetime", "date", "time"):
        return _as(kind, value.isoformat())
    if kind == "decimal":
        return _as("decimal", str(value))
    if kind == "uuid":
        return _as("uuid", {"hex": value.hex})
    raise Invalid(
        "%s is of type %s.%s; a task may return %s" % (path, type(value).__module__, type(value).__name__, CARRIED)
    )


def _kind(value):
    # Only where their modules are loaded can a value be of these types: so none is loaded here.
    if isinstance(value, bytes):
        return "bytes"
    datetime, decimal, uuid = (sys.modules.get(name) for name in ("datetime", "decimal", "uuid"))
    if datetime:
        for name in ("datetime", "date", "time"):
            if isinstance(value, getattr(datetime, name)):
                return name
    if decimal and isinstance(value, decimal.Decimal):
        return "decimal"
    if uuid and isinstance(value, uuid.UUID):
        return "uuid"
    return None


def _as(kind, value):
    return {"__type__": kind, "__value__": value}
