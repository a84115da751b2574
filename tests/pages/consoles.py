"""Lines of a terminal, as pages show them."""

import os
import re
from dataclasses import dataclass, field

from opentelemetry.sdk import environment_variables
from pages.blocks import ROOT, Block

from cellwork.settings import Settings

#: Variables that something reads, or the lines that follow.
VARIABLES = frozenset(
    {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELLWORK_CONFIG", "CELLWORK_PRICES", "CELLWORK_METRICS_TOKEN"}
    | {"CHAOS_SEED", "DOCKER_HOST", "KUBECONFIG", "PATH", "redis"}
    | {f"CELLWORK_{name.upper()}" for name in Settings.__struct_fields__}
    | {name for name in vars(environment_variables) if name.startswith("OTEL_")}
)

_COMMENT = re.compile(r"(^|\s)#\s.*$")
_ASSIGNMENT = re.compile(r"(?:^|(?<=\s))([A-Za-z_]\w*)=\S")


@dataclass
class Line:
    """What is typed, and what is shown below it. `output` is None in a block without prompts."""

    typed: str
    output: list[str] | None = field(default=None)


def lines(block: Block) -> list[Line]:
    """The lines of a block. Where one has the prompt ``$``, whatever has none is output."""
    joined = block.text.replace("\\\n", " ").splitlines()
    if not any(line.startswith("$ ") for line in joined):
        return [Line(line) for line in joined if line.strip()]
    found: list[Line] = []
    for line in joined:
        if line.startswith("$ "):
            found.append(Line(line[2:], []))
        else:
            assert found, f"{block}: output before the first prompt"
            assert found[-1].output is not None
            found[-1].output.append(line)
    return found


def bare(line: Line) -> str:
    """What is typed, without its comment."""
    return _COMMENT.sub("", line.typed).strip()


def assigned(typed: str) -> list[str]:
    """Variables that a line gives to a program, or to the lines that follow."""
    before = re.match(r"(?:export )?(?:\w+=\S+ ?)+", typed)
    return _ASSIGNMENT.findall(before[0].removeprefix("export ")) if before else []


def path() -> str:
    """PATH with the environment's own programs first, as after ``source .venv/bin/activate``."""
    return f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
