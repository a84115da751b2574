"""Mermaid's diagrams, as far as the pages use it: a small reader for each kind, which refuses what it does not know."""

import json
import re

#: Such as ``waiting --> running: second part``; ``[*]`` is where it begins and ends.
_TRANSITION = re.compile(r"(\[\*\]|\w+) --> (\[\*\]|\w+)(?:: (.+))?")
_NODE = r"(\w+)(?:\[\"[^\"]*\"\]|\(\[\"[^\"]*\"\]\))?"
_ARROW = re.compile(rf"{_NODE} (?:-->|-\.->)(?:\|\"[^\"]*\"\|)? {_NODE}")


def check(text: str) -> None:
    """Raises where it could not be drawn."""
    first, _, rest = text.partition("\n")
    {"stateDiagram-v2": states, "xychart-beta": _chart, "flowchart": _flow}[first.split()[0]](rest)


def states(text: str) -> list[tuple[str, str, str]]:
    """The transitions of a state diagram: from, to, and what is written at the arrow."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if re.fullmatch(r"direction (LR|TB)|state \"[^\"]+\" as \w+", line):
            continue
        arrow = _TRANSITION.fullmatch(line)
        assert arrow, f"no transition: {line!r}"
        found.append((arrow[1], arrow[2], arrow[3] or ""))
    return found


def _chart(text: str) -> None:
    values = dict(line.strip().split(" ", 1) for line in text.splitlines() if line.strip())
    bars = [json.loads(value) for name, value in values.items() if name in ("bar", "line")]
    assert bars
    assert {len(bar) for bar in bars} == {len(json.loads(values["x-axis"]))}
    assert re.fullmatch(r'"[^"]*" [\d.]+ --> [\d.]+', values["y-axis"])


def _flow(text: str) -> None:
    for line in filter(None, map(str.strip, text.splitlines())):
        known = re.fullmatch(r"subgraph \w+(\[\"[^\"]*\"\])?|end|direction (LR|TB)", line)
        assert known or _ARROW.fullmatch(line) or re.fullmatch(_NODE, line), f"neither a node nor an arrow: {line!r}"
