"""What the documentation says of options and settings is what the code has."""

import re
from pathlib import Path

import pytest

from cellwork.settings import Settings
from cellwork.spec import ContainerSpec

DOCS = Path(__file__).parents[2] / "docs"


def named(table: str) -> set[str]:
    """What the first column names."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


@pytest.mark.parametrize(("heading", "type_"), [("# Options", ContainerSpec), ("# Settings", Settings)])
def test_every_option_and_setting_has_its_row(heading, type_):
    text = (DOCS / "options.md").read_text()
    section = text.partition(heading)[2].partition("\n# ")[0]
    assert named(section) == set(type_.__struct_fields__)


def test_links_between_pages_lead_somewhere():
    pages = [*DOCS.glob("**/*.md"), DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    dead = [f"{page.name}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()]
    assert links
    assert dead == []
