"""The pages: their links lead somewhere, their tables are complete, and their examples do what they say."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from cellwork import declared
from cellwork.settings import Settings
from cellwork.spec import ContainerSpec
from cellwork_worker import policy

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_the_example_of_declared_images_declares_two(tmp_path, monkeypatch):
    (example,) = blocks("docs/images.md", "python")
    (tmp_path / "imagesexample.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imagesexample")
    found = declared.images(module.app)
    assert [one.tasks for one in found.values()] == [("imagesexample.old_report",), ("imagesexample.report",)]
    assert all(re.fullmatch(r"cellwork/python:[0-9a-f]{12}", tag) for tag in found)


def test_the_policy_of_the_page_on_images_is_a_policy():
    (example,) = blocks("docs/images.md", "toml")
    rules = policy.load(tomllib.loads(example)["cellwork"]["policy"])
    assert (rules.build, rules.build_timeout) == ("deny", 1800.0)


@pytest.mark.parametrize(("heading", "type_"), [("# Options", ContainerSpec), ("# Settings", Settings)])
def test_every_option_and_setting_has_its_row(heading, type_):
    section = (ROOT / "docs/options.md").read_text().partition(heading)[2].partition("\n# ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(type_.__struct_fields__)
