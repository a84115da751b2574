"""Quantities as Docker and as Kubernetes spell them: ``512m``, ``512Mi``, ``0.5``, ``500m``. Pure."""

import re

_BYTES = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE)
_CPUS = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<milli>m?)")

# Docker's units are powers of 1024, with or without "b"; Kubernetes' "Mi" is the same, its bare "M" is not
# supported there as 1000² but read as Docker reads it: whoever writes memory="512M" means the larger one.
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}

BYTES_ACCEPTED = 'a number of bytes, or a number with a unit, such as "512m", "512Mi", "2g" or "2Gi"'
CPUS_ACCEPTED = 'a number of processors greater than 0, such as 2, 0.5, "0.5" or "500m"'


def parse_bytes(value: object) -> int:
    """Bytes of a memory or storage quantity.

    Raises:
        ValueError: `value` is no such quantity; the message is what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(BYTES_ACCEPTED)
    if isinstance(value, int | float):
        number, exponent = float(value), 0
    else:
        match = _BYTES.fullmatch(value.strip())
        unit = match["unit"].lower() if match else "?"
        unit = unit[:-1] if len(unit) > 1 and unit[-1] in "bi" else unit
        unit = unit[:-1] if len(unit) > 1 and unit[-1] == "i" else unit
        if match is None or unit not in _UNITS:
            raise ValueError(BYTES_ACCEPTED)
        number, exponent = float(match["number"]), _UNITS[unit]
    amount = number * 1024**exponent
    if not 0 < amount < 2**63:
        raise ValueError(BYTES_ACCEPTED)
    return int(amount)


def parse_cpus(value: object) -> float:
    """Processors, as a float with a resolution of a thousandth.

    Raises:
        ValueError: `value` is no such quantity; the message is what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(CPUS_ACCEPTED)
    if isinstance(value, str):
        match = _CPUS.fullmatch(value.strip())
        if match is None:
            raise ValueError(CPUS_ACCEPTED)
        value = float(match["number"]) / (1000 if match["milli"] else 1)
    cpus = round(float(value), 3)
    if not 0 < cpus < 10_000:
        raise ValueError(CPUS_ACCEPTED)
    return cpus


def format_bytes(amount: int) -> str:
    """`amount` in the largest binary unit of which it is at least one: ``4 GiB``, ``1.5 MiB``, ``12 B``."""
    size, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"
