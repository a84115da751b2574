"""A helper module: it travels with the tasks that import it."""

import re


def split(text):
    """Rows of countries, position and name."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split("\t")[:3] for line in lines]


def southern(found):
    """Rows, the one nearest to the south pole first. Positions are ISO 6709: ±DDMM±DDDMM or ±DDMMSS±DDDMMSS."""
    return sorted(found, key=lambda row: _latitude(row[1]))


def _latitude(position):
    sign, digits = re.match(r"([+-])(\d+)", position).groups()
    degrees = int(digits[:2]) + int(digits[2:4]) / 60 + int(digits[4:6] or 0) / 3600
    return -degrees if sign == "-" else degrees
