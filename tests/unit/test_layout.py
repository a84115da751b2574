"""The layout of the repository: what shadows nothing, and what is imported by nobody."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*lines: str, path: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_folder_named_queue_does_not_shadow_the_standard_librarys_module():
    assert not (ROOT / "queue" / "__init__.py").exists()
    assert not (ROOT / "workers" / "__init__.py").exists()
    # From the repository's root, which Python puts first on its path with -c.
    assert python("import queue", "print(queue.SimpleQueue.__name__)") == "SimpleQueue"


def test_a_producer_imports_no_sdk_and_nothing_of_the_worker():
    loaded = python(
        "import sys, cellwork",
        "unwanted = 'docker', 'kubernetes', 'cellwork_worker', 'redis', 'rich', 'flower', 'tornado', 'opentelemetry'",
        "print([m for m in unwanted if m in sys.modules])",
    )
    assert loaded == "[]"


def test_the_runner_needs_the_standard_library_only():
    import ast

    allowed = sys.stdlib_module_names
    runner = ROOT / "workers" / "cellwork_worker" / "runner"
    files = sorted(runner.glob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 8))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top in allowed or top in {"celery", "cellwork"}, f"{file.name} imports {name}"


def test_both_packages_say_that_they_have_types():
    for package in ("queue/cellwork", "workers/cellwork_worker"):
        assert (ROOT / package / "py.typed").exists()


def test_the_test_run_fails_without_an_engine_and_names_what_to_install():
    env = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    ran = subprocess.run([ROOT / "scripts/test.sh"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no engine answers at DOCKER_HOST=unix:///nowhere.sock" in ran.stderr
    assert "test: the tests need a Docker engine; as root, run: apt-get install docker.io" in ran.stderr
