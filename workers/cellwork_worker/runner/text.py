"""JSON, with what the json package is made of: importing that itself takes longer than all the rest of the runner.

It needs the re module, and that the enum module; a body that imports them pays for them, and no other.
"""


class _Reading:
    """What the interpreter's scanner asks of its decoder: the json package's defaults."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int = float, int
    parse_constant = float


def _refuse(value):
    raise TypeError("JSON cannot carry an object of type %s" % type(value).__name__)


def _own():
    """`loads` and `dumps`, where this interpreter has these parts, and they take what they took so far."""
    import _json

    scan = _json.make_scanner(_Reading)
    encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False)

    def loads(text):
        return scan(text, 0)[0]

    def dumps(value):
        return "".join(encode(value, 0))

    sample = '{"a": [1, 2.5, null, true, "\\u00e9"]}'
    if dumps(loads(sample)) != sample:
        raise TypeError
    return loads, dumps


try:
    loads, dumps = _own()
except (ImportError, AttributeError, TypeError):
    import json

    loads = json.loads

    def dumps(value):
        return json.dumps(value, allow_nan=False)
