"""What the demo's tasks run in: two images with conflicting libraries, or, without an engine, two environments."""

import os
import subprocess
import venv
from pathlib import Path

import click
from rich.console import Console

from cellwork.image import Image

from .images import TIMEOUT, ImageEngine, steps

#: One library, two major versions of which only one can be installed in one place.
LIBRARIES = {"1": "pydantic==1.10.26", "2": "pydantic==2.12.5"}

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellwork" / "demo"


def build_images(base: str, console: Console) -> None:
    """Build ``cellwork-demo/pydantic:1`` and ``:2`` on `base`; a moment where they exist.

    Raises:
        CellworkError: the engine cannot, with the last lines it said.
    """
    engine = ImageEngine()
    for version, requirement in LIBRARIES.items():
        tag = f"cellwork-demo/pydantic:{version}"
        console.print(f"image     {tag} = {base} + {requirement}", highlight=False)
        with steps(tag) as say:
            engine.builder.build(Image(base).pip(requirement), tag, {}, TIMEOUT, say, {})


def build_environments(console: Console) -> dict[str, str]:
    """Make two virtual environments instead; return the variables that name their interpreters."""
    variables = {}
    for version, requirement in LIBRARIES.items():
        folder = _CACHE / f"pydantic-{version}"
        console.print(f"venv      {folder} with {requirement}", highlight=False)
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        if subprocess.run(pip, check=False).returncode != 0:
            raise click.ClickException(f"pip could not install {requirement} into {folder}; what it said is above")
        variables[f"DEMO_PYTHON_{version}"] = str(python)
    return variables


def zone_table() -> str:
    """The demo's input: the IANA time zone table, from the tzdata package."""
    import tzdata

    return (Path(tzdata.__file__).parent / "zoneinfo" / "zone1970.tab").read_text()
