"""No example of a page goes unchecked: Python is run, settings are loaded; test_typed.py has the consoles."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from celery import Celery
from pages import consoles, diagrams
from pages.blocks import BLOCKS, PAGES, ROOT, blocks

from cellwork import prices, settings
from cellwork_worker import policy

#: Pages whose Python needs a worker, and those whose commands are run as they stand: test_with_a_worker.py.
WITH_A_WORKER = {"README.md", "docs/quickstart.md", "docs/logs.md"}

#: What readers of a page have already when they come to its first example.
GIVEN = """
from celery import Celery
from cellwork import configure

app = configure(Celery("shop"), defaults={"image": "python:3.12-slim"})
"""

#: Pages whose shown output is compared with what is really printed, in tests of this folder.
RUN = {"docs/quickstart.md", "docs/routing.md", "docs/sizing.md"}

LANGUAGES = {"python", "toml", "console", "mermaid", "text", "yaml"}


def of(*languages: str) -> pytest.MarkDecorator:
    """Blocks in these languages. The commands of whole programs are run as they stand: tests/examples."""
    found = [block for block in BLOCKS if block.language in languages and not block.page.startswith("examples/")]
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_is_in_a_language_that_is_checked():
    assert len(BLOCKS) > 30
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


def test_no_page_is_left_out():
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= {str(page.relative_to(ROOT)) for page in PAGES}


@pytest.fixture
def shop(no_broker_named, tmp_path, monkeypatch):
    """A folder as a reader has one, and a broker in memory."""
    monkeypatch.setattr("cellwork.app.DEFAULTS", {**_defaults(), "broker_url": "memory://"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _defaults() -> dict[str, object]:
    from cellwork.app import DEFAULTS

    return {**DEFAULTS, "result_backend": "cache+memory://"}


def pages_of(language: str) -> list[str]:
    return sorted({block.page for block in BLOCKS if block.language == language})


@pytest.mark.parametrize("page", [page for page in pages_of("python") if page not in WITH_A_WORKER])
def test_the_python_of_a_page_runs(page, shop):
    """As one module: declared, and what it sends goes to a broker in memory."""
    found = blocks(page, "python")
    name = re.sub(r"\W", "_", page.removesuffix(".md"))
    begins = "" if "configure(Celery(" in found[0].text else GIVEN
    (shop / f"{name}.py").write_text("\n\n".join([begins, *(block.text for block in found)]))
    spec = importlib.util.spec_from_file_location(name, shop / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        if hasattr(module, "app"):
            assert [task for task in module.app.tasks if task.startswith((name, "shop"))], "it declares no task"
    finally:
        del sys.modules[name]


@of("toml")
def test_toml_is_settings_or_a_table_of_prices(block, tmp_path, monkeypatch):
    table = tomllib.loads(block.text)
    file = tmp_path / "example.toml"
    file.write_text(block.text)
    if "cellwork" not in table:
        assert prices.read(file)
        return
    assert set(table) == {"cellwork"}
    monkeypatch.setenv("CELLWORK_CONFIG", str(file))
    loaded = settings.load(Celery("pages", set_as_current=False))
    rules = {**loaded.policy, "seccomp": {}}  # profiles are files of the reader's
    assert policy.load(rules)


@of("console")
def test_consoles_are_of_a_shell_and_what_they_show_is_compared(block):
    """That each line does what it says: test_typed.py."""
    syntax = "\n".join(line.typed.replace("…", "") for line in consoles.lines(block))
    checked = subprocess.run(["bash", "-n"], input=syntax, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for line in consoles.lines(block):
        assert set(consoles.assigned(consoles.bare(line))) <= consoles.VARIABLES, "nothing reads that variable"
        if line.output:
            assert block.page in RUN, f"{block}: nothing compares this output with what is really printed"


def test_the_dev_container_and_pre_commit_start_what_is_there():
    """That a commit is checked by the hooks: test_contributing.py."""
    text = re.sub(r"^ *//.*$", "", (ROOT / ".devcontainer/devcontainer.json").read_text(), flags=re.MULTILINE)
    container = json.loads(text)
    assert container["postCreateCommand"] == "make venv images programs && .venv/bin/pre-commit install"
    assert container["postStartCommand"] == "scripts/engine.sh"
    subprocess.run(["make", "--dry-run", "venv", "images", "programs"], cwd=ROOT, capture_output=True, check=True)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {f".venv/bin/{name}" for name in ("ruff", "mypy", "lint-imports", "pytest")}
    for program in programs:
        assert shutil.which(program.removeprefix(".venv/bin/"), path=consoles.path())


@of("mermaid")
def test_diagrams_can_be_drawn(block):
    diagrams.check(block.text)


@of("yaml")
def test_yaml_is_of_a_page_whose_manifest_a_test_runs(block):
    """The preStop hook: tests/integration/test_drain.py."""
    assert block.page == "docs/reliability.md"
    assert yaml.safe_load(block.text)


def test_what_is_shown_as_text_is_looked_at_below():
    shown = {block.page for block in BLOCKS if block.language == "text" and not block.page.startswith("examples/")}
    assert shown == {"docs/architecture.md", "docs/monitoring.md"}


def test_the_picture_of_a_trace_has_all_of_its_spans():
    (block,) = blocks("docs/monitoring.md", "text")
    sources = [
        (ROOT / path).read_text() for path in ("queue/cellwork/tracing.py", "workers/cellwork_worker/tracing.py")
    ]
    made = {name for source in sources for name in re.findall(r'span\(f"(\w+) \{', source)}
    assert set(re.findall(r"(\w+) shop\.parse", block.text)) == made


def test_the_picture_of_the_rooms_shows_rooms_that_are_there():
    (block,) = blocks("docs/architecture.md", "text")
    for room in ("pool", "job", "supervisor", "hardening", "policy", "launch", "bundle", "bootstrap", "verdict"):
        assert re.search(rf"\b{room}\b", block.text)
        assert (ROOT / f"workers/cellwork_worker/{room}.py").exists()
    for executor in re.findall(r"executors/\{(.*)\}", block.text)[0].split(","):
        assert list((ROOT / "workers/cellwork_worker/executors").glob(f"{executor}*"))
