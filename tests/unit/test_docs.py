"""The pages: their links lead somewhere, their tables are complete, and some examples do what is said of them.

That every example runs is what tests/pages looks after, links in the site made of them too.
"""

import importlib
import re
import tomllib

import pytest
from celery.app.task import Task
from pages.blocks import PAGES, ROOT, blocks

from cellwork import declared, errors, prices
from cellwork.settings import Settings
from cellwork.spec import ContainerSpec
from cellwork_worker import policy


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_the_example_of_declared_images_declares_two(tmp_path, monkeypatch):
    (example,) = (block.text for block in blocks("docs/images.md", "python"))
    (tmp_path / "imagesexample.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imagesexample")
    found = declared.images(module.app)
    assert [one.tasks for one in found.values()] == [("imagesexample.old_report",), ("imagesexample.report",)]
    assert all(re.fullmatch(r"cellwork/python:[0-9a-f]{12}", tag) for tag in found)


def test_the_policy_of_the_page_on_images_is_a_policy():
    (example,) = (block.text for block in blocks("docs/images.md", "toml"))
    rules = policy.load(tomllib.loads(example)["cellwork"]["policy"])
    assert (rules.build, rules.build_timeout) == ("deny", 1800.0)


def test_the_table_of_prices_of_the_page_on_monitoring_is_one_and_has_all(tmp_path):
    (example,) = (block.text for block in blocks("docs/monitoring.md", "toml"))
    (tmp_path / "prices.toml").write_text(example)
    assert prices.read(tmp_path / "prices.toml").gpu_hour == 2.0
    assert set(tomllib.loads(example)) == set(prices.Prices.__struct_fields__)


@pytest.mark.parametrize(("heading", "type_"), [("\n## Options", ContainerSpec), ("\n## Settings", Settings)])
def test_every_option_and_setting_has_its_row(heading, type_):
    section = (ROOT / "docs/options.md").read_text().partition(heading)[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(type_.__struct_fields__)


def test_the_examples_of_the_readme_run():
    """Declared, sent to a broker in memory, and imported where a library is missing. Running is tested elsewhere."""
    declared_, sent, imported = (block.text for block in blocks("README.md", "python"))
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


def test_what_airflow_users_are_told_to_write_is_there():
    """The right columns of the tables: options, settings, the policy's fields, errors, and Celery's own."""
    text = (ROOT / "docs/migrating.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if re.match(r"\| [`\[]", line)]
    told = {name for row in rows for name in re.findall(r"`([A-Za-z]+(?:_[a-z]+)*)[`=]", row[2])}
    known = {*ContainerSpec.__struct_fields__, *Settings.__struct_fields__, *policy.Policy.__struct_fields__}
    known |= {*vars(errors), *dir(Task), *dir(errors.CommandFailed), "autoretry_for", "queue"}
    docker_cli = {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}
    assert len(rows) > 50
    assert told - known - docker_cli - {"task"} == set()
