"""The lines of CONTRIBUTING.md and the README's first one, in this checkout: long ones with small figures."""

import json
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from pages.blocks import ROOT
from pages.claims import RUNS_THESE, the_line
from pages.reader import Reader
from ports import free_port

pytestmark = pytest.mark.timeout(600)

#: What make ends with after Ctrl-C: of the signal.
MAKES_OWN = -signal.SIGINT


@pytest.fixture
def checkout(reader) -> Reader:
    """In the project's folder, with no broker."""
    reader.where = ROOT
    # The demo and `make chaos` have a broker and an installation of their own.
    broker = f"redis://127.0.0.1:{free_port()}"
    reader.env |= {"CELERY_BROKER_URL": f"{broker}/0", "CELERY_RESULT_BACKEND": f"{broker}/1"}
    return reader


def test_the_demo_runs_its_five_tasks_and_leaves_nothing(checkout):
    printed = checkout.succeeds(the_line("README.md", "make demo"))
    assert re.findall(r"\b(SUCCESS|FAILURE)\b", printed) == ["SUCCESS"] * 4 + ["FAILURE"]
    assert "nothing is left running" in printed


def test_the_environment_is_there_and_lint_passes(checkout):
    for line in (the_line("CONTRIBUTING.md", "make venv"), the_line("CONTRIBUTING.md", "make lint")):
        checkout.succeeds(line)


def test_lines_that_no_test_types_are_those_that_start_this_run():
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("\nexec make test")
    ran = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.rstrip().endswith("\nscripts/test.sh")
    script = (ROOT / "scripts/test.sh").read_text()
    for line in {line for _, line in RUNS_THESE} - {"make test"}:
        program, folder, *some = line.removeprefix(".venv/bin/").split()
        assert f"    {program} " in script
        assert (ROOT / folder).is_dir(), "the second stage runs all folders but tests/unit"
        assert not some or list((ROOT / folder).glob(f"test_{some[1]}*.py")), f"{line} finds nothing"
    assert re.search(r"^stage 'unit tests' halves tests/unit ", script, re.MULTILINE)
    assert re.search(r"^stage '.*' halves tests --ignore tests/unit ", script, re.MULTILINE)


def test_the_site_is_served_while_it_is_written(checkout):
    port = free_port()
    line = the_line("CONTRIBUTING.md", "make docs-serve")
    with (
        checkout.leaves_running(f"{line} PORT={port}", MAKES_OWN, sign="Serving on"),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer,
    ):
        assert "cellwork" in answer.read().decode()


def test_damaged_streams_are_tried_as_often_as_one_says(checkout):
    line = the_line("CONTRIBUTING.md", "make fuzz EXAMPLES=50000")
    assert " passed in " in checkout.succeeds(line.replace("50000", "20"))


def test_the_benchmarks_run_and_write_down_what_they_measured(checkout, tmp_path):
    output = tmp_path / "results.json"
    small = f"--calls 1 --paced 0 --rounds 1 --inflight 1 --tasks 8 --output {output}"
    printed = checkout.succeeds(f"{the_line('CONTRIBUTING.md', 'make bench')} BENCH='{small}'")
    assert "milliseconds, one after the other" in printed
    written = json.loads(output.read_text())
    assert len(written["latency"]["ours"]) == 1
    assert written["worker"]["cold"]["cpu_ms_a_task"] > 0


@pytest.fixture
def clone(reader, tmp_path) -> Path:
    """A checkout as somebody has who changes something, with the tools of this one."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    reader.where = folder
    return folder


def test_a_commit_is_checked_by_the_hooks_once_they_are_installed(reader, clone):
    reader.env |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    reader.succeeds(the_line("CONTRIBUTING.md", "pre-commit install"))
    (clone / "tests/unit/test_new.py").write_text("import os\n")
    refused = reader.runs("git add --all tests && git commit -m 'an import that nothing uses'")
    assert refused.returncode == 1
    assert re.search(r"^ruff check\.+Failed", refused.stdout, re.MULTILINE), refused.stdout
    assert "`os` imported but unused" in refused.stdout
    (clone / "tests/unit/test_new.py").write_text('"""A file that all hooks take."""\n')
    assert "1 file changed" in reader.succeeds("git add --all tests && git commit -m 'a file'")
