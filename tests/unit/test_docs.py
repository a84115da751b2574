"""The pages: their links lead somewhere, their tables are complete, and their examples do what they say."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from celery import Celery

from cellwork import declared, prices, settings
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


def test_the_table_of_prices_of_the_page_on_monitoring_is_one_and_has_all(tmp_path):
    (example,) = blocks("docs/monitoring.md", "toml")
    (tmp_path / "prices.toml").write_text(example)
    assert prices.read(tmp_path / "prices.toml").gpu_hour == 2.0
    assert set(tomllib.loads(example)) == set(prices.Prices.__struct_fields__)


@pytest.mark.parametrize(("heading", "type_"), [("\n## Options", ContainerSpec), ("\n## Settings", Settings)])
def test_every_option_and_setting_has_its_row(heading, type_):
    section = (ROOT / "docs/options.md").read_text().partition(heading)[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(type_.__struct_fields__)


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    """Declared, sent to a broker in memory, and imported where a library is missing. Running is tested elsewhere."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    declared_, sent, imported = blocks("README.md", "python")
    module: dict[str, object] = {"__name__": "readme"}
    exec(compile(declared_, "README.md", "exec"), module)
    app = module["app"]
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")  # type: ignore[attr-defined]
    exec(compile(sent, "README.md", "exec"), module)
    with app.connection_for_read() as connection:  # type: ignore[attr-defined]
        queue = connection.SimpleQueue("docker")
        specs = [queue.get(timeout=1).headers["cellwork"]["spec"] for _ in range(2)]
    assert specs == [{}, {"memory": 1 << 30}]
    exec(compile(imported, "README.md", "exec"), {})


def test_the_settings_that_the_pages_show_are_settings(tmp_path, monkeypatch):
    shown = [block for page in PAGES for block in blocks(str(page.relative_to(ROOT)), "toml")]
    assert len(shown) >= 3
    for block in shown:
        (tmp_path / "cellwork.toml").write_text(block)
        monkeypatch.setenv("CELLWORK_CONFIG", str(tmp_path / "cellwork.toml"))
        settings.load(Celery("pages", set_as_current=False))
