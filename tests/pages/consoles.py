"""Lines of a terminal, as pages show them: taken apart, and each held against the program that it calls."""

import importlib.util
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import click
from celery.bin.celery import celery
from opentelemetry.sdk import environment_variables
from pages.blocks import ROOT, Block
from tornado.options import options as flower_options

from cellwork.cli import cellwork
from cellwork.settings import Settings

#: Variables of a reader's own, and of programs that are not ours.
_VARIABLES = frozenset(
    {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELLWORK_CONFIG", "CELLWORK_PRICES", "CELLWORK_METRICS_TOKEN"}
    | {"CHAOS_SEED", "DOCKER_HOST", "KUBECONFIG", "PATH", "redis"}
    | {f"CELLWORK_{name.upper()}" for name in Settings.__struct_fields__}
    | {name for name in vars(environment_variables) if name.startswith("OTEL_")}
)

_COMMENT = re.compile(r"(^|\s)#\s.*$")
_INNER = re.compile(r"\$\(([^()]*)\)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=.*", re.DOTALL)


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


def commands(typed: str) -> Iterator[list[str]]:
    """The commands of a line, each as its words; those in ``$(…)`` too."""
    text = _COMMENT.sub("", typed)
    for inner in _INNER.findall(text):
        yield from commands(inner)
    words = shlex.shlex(_INNER.sub("INNER", text), posix=True, punctuation_chars="|&;<>")
    words.whitespace_split = True
    words.commenters = ""
    command: list[str] = []
    for word in [*words, ";"]:
        if word and not set(word) - set("|&;"):
            if command:
                yield command
            command = []
        else:
            command.append(word)


def check(command: list[str]) -> None:
    """Hold a command against the program that it calls, without running it; fails where nobody knows how."""
    words = list(command)
    while words and (assigned := _ASSIGNMENT.fullmatch(words[0])):
        assert assigned[1] in _VARIABLES, f"{assigned[1]} is no variable that anything reads"
        words.pop(0)
    if not words:
        return
    program = words[0].removeprefix(".venv/bin/")
    if program.startswith("scripts/"):
        assert (ROOT / program).exists(), f"{program} is not there"
        return
    checker = _CHECKS.get(program)
    assert checker, f"nothing checks lines that begin with {program!r}: teach tests/pages/consoles.py to"
    # As synopses are written: [--json] may be left out, ID… may be more.
    checker([re.sub(r"^\[(.*)\]$", r"\1", word).removesuffix("…") or word for word in words[1:]])


def _click(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    context = click.Context(command, info_name=command.name, parent=parent)
    if not isinstance(command, click.Group):
        if command.make_context(str(command.name), list(words), parent=parent).ignore_unknown_options:
            # It takes -1 for an argument; what a page shows as an option is to be one.
            known = {option for parameter in command.params for option in parameter.opts}
            ours = words[: words.index("--")] if "--" in words else words
            assert {word for word in ours if word.startswith("--")} <= known
        return
    rest = _options(command, words, context)
    assert rest, f"{command.name}: which command?"
    inner = command.get_command(context, rest[0])
    assert inner, f"{command.name} has no command {rest[0]!r}"
    _click(inner, rest[1:], context)


def _options(command: click.Command, words: list[str], context: click.Context) -> list[str]:
    """Parse, without converting: Celery's own options would import the application. Raises for unknown ones."""
    rest: list[str] = command.make_parser(context).parse_args(words)[1]
    return rest


def _cellwork(words: list[str]) -> None:
    # Of the group's own, eager ones end the program.
    if words[:1] not in (["--help"], ["--version"], ["--completion"]):
        _click(cellwork, words)


def _celery(words: list[str]) -> None:
    context = click.Context(celery)
    rest = _options(celery, words, context)
    inner = celery.get_command(context, rest[0])
    assert inner, f"celery has no command {rest[0]!r}"
    if rest[0] == "cellwork":
        _click(inner, rest[1:], context)
    elif rest[0] == "flower":
        importlib.import_module("flower.options")
        for word in rest[1:]:
            assert word.split("=")[0].lstrip("-").replace("-", "_") in flower_options, f"flower has no option {word}"
    elif rest[0] not in ("inspect", "control"):
        _options(inner, rest[1:], click.Context(inner, parent=context))


def _make(words: list[str]) -> None:
    ran = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def _pytest(words: list[str]) -> None:
    for word in words:
        assert not word.startswith("tests") or (ROOT / word).exists(), f"{word} is not there"


def _python(words: list[str]) -> None:
    if words[:2] == ["-m", "venv"]:
        return
    if words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
    elif words[:1] == ["-m"]:
        where = importlib.util.find_spec(words[1]) or (ROOT / f"{words[1].replace('.', '/')}.py").exists()
        assert where, f"there is no module {words[1]}"
    else:
        raise AssertionError(f"python {words}: -m or -c is expected")


def _pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    asked = [extra for word in words for part in re.findall(r"cellwork\[(.*)\]", word) for extra in part.split(",")]
    assert asked, f"pip {words}: which extras?"
    assert set(asked) <= extras


def _paths(*options: str, folders: bool = False) -> Callable[[list[str]], None]:
    """A check that what follows these options is there, from the repository's folder."""

    def checker(words: list[str]) -> None:
        for option, path in pairwise(words):
            assert option not in options or (ROOT / path).exists(), f"{option} {path}: is not there"

    return checker


def _docker(words: list[str]) -> None:
    _paths("-f")(words)
    if words[0] != "compose":  # a plugin, or docker-compose: whichever there is
        _helped("docker", words)


def _kubectl(words: list[str]) -> None:
    _paths("-f", "-k")(words)
    _helped("kubectl", words)


def _pre_commit(words: list[str]) -> None:
    _helped("pre-commit", words)


def _helped(program: str, words: list[str]) -> None:
    """The program's own parser, which refuses unknown options before it prints its help."""
    ran = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def _cp(words: list[str]) -> None:
    assert (ROOT / words[0]).exists(), f"{words[0]} is not there"


def _cd(words: list[str]) -> None:
    # A reader's own folder is shop/.
    assert words[0] == "shop" or (ROOT / words[0]).is_dir(), f"{words[0]} is no folder"


def _export(words: list[str]) -> None:
    check(words)


def _kind(words: list[str]) -> None:
    """Kind is not to be had where the tests run, and its page says that it was not tried."""
    assert words[:2] in (["create", "cluster"], ["load", "docker-image"])


def _nothing(words: list[str]) -> None:
    """A program of every machine."""


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    ".": _nothing,
    "cat": _nothing,
    "cd": _cd,
    "celery": _celery,
    "cellwork": _cellwork,
    "cp": _cp,
    "docker": _docker,
    "echo": _nothing,
    "export": _export,
    "kind": _kind,
    "kubectl": _kubectl,
    "make": _make,
    "mkdir": _nothing,
    "openssl": _nothing,
    "pip": _pip,
    "pre-commit": _pre_commit,
    "pytest": _pytest,
    "python": _python,
    "python3": _python,
}


def path() -> str:
    """PATH with the environment's own programs first, as after ``source .venv/bin/activate``."""
    return f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
