"""The code that travels with a task."""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cellwork.errors import InvalidSpec, PayloadTooLarge
from cellwork_worker import bundle as bundles
from cellwork_worker.bundle import Bundle, bundle

MIB = 1 << 20
Write = Callable[[dict[str, str | bytes]], Path]


@pytest.fixture
def write(tmp_path) -> Write:
    def files(content: dict[str, str | bytes], folder: Path = tmp_path) -> Path:
        for name, text in content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        return folder

    return files


def ship(module: str, file: Path | str, root: str | None = None, limit: int = MIB) -> Bundle:
    return bundle(module, str(file), root, limit)


def names(made: Bundle) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(made.data)).namelist()


def read(made: Bundle, name: str) -> bytes:
    return zipfile.ZipFile(io.BytesIO(made.data)).read(name)


def test_a_package_ships_whole_with_its_data_and_its_extension_modules(write):
    root = write(
        {
            "shop/__init__.py": "",
            "shop/tasks.py": "def parse(): ...",
            "shop/deep/er/data.csv": "1,2",
            "shop/fast.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        }
    )
    made = ship("shop.tasks", root / "shop/tasks.py")
    assert names(made) == [
        "shop/__init__.py",
        "shop/deep/er/data.csv",
        "shop/fast.cpython-311-x86_64-linux-gnu.so",
        "shop/tasks.py",
    ]
    assert read(made, "shop/deep/er/data.csv") == b"1,2"


def test_hidden_and_compiled_files_stay_behind(write):
    root = write(
        {
            "shop/__init__.py": "",
            "shop/.env": "PASSWORD=x",
            "shop/.git/config": "",
            "shop/__pycache__/tasks.cpython-311.pyc": "",
            "shop/old.pyc": "",
        }
    )
    assert names(ship("shop", root / "shop/__init__.py")) == ["shop/__init__.py"]


def test_every_module_of_a_package_ships_the_same_bundle(write):
    root = write({"shop/__init__.py": "", "shop/a.py": "", "shop/deep/__init__.py": "", "shop/deep/b.py": ""})
    files = {"shop": "__init__.py", "shop.a": "a.py", "shop.deep": "deep/__init__.py", "shop.deep.b": "deep/b.py"}
    assert len({id(ship(module, root / "shop" / file)) for module, file in files.items()}) == 1


def test_a_namespace_package_ships_whole(write):
    root = write({"company/shop/tasks.py": "", "company/other/__init__.py": "", "unrelated.py": ""})
    made = ship("company.shop.tasks", root / "company/shop/tasks.py")
    assert names(made) == ["company/other/__init__.py", "company/shop/tasks.py"]


def test_a_module_ships_with_what_it_imports_from_beside_it_and_what_that_imports(write):
    root = write(
        {
            "bundled_tasks.py": "import bundled_a, os\nfrom bundled_b.deep import x\ndef f():\n    import bundled_c.y",
            "bundled_a.py": "if True:\n    from bundled_d import z",
            "bundled_b/__init__.py": "",
            "bundled_b/deep.py": "x = 1",
            "bundled_b/data.txt": "",
            "bundled_c/y.py": "import bundled_tasks",
            "bundled_d.py": "",
            "bundled_e.py": "not imported",
            "bundled_f/__init__.py": "",
            "README.md": "",
        }
    )
    assert names(ship("bundled_tasks", root / "bundled_tasks.py")) == [
        "bundled_a.py",
        "bundled_b/__init__.py",
        "bundled_b/data.txt",
        "bundled_b/deep.py",
        "bundled_c/y.py",
        "bundled_d.py",
        "bundled_tasks.py",
    ]


def test_a_package_ships_with_the_top_level_modules_beside_it_that_it_imports(write):
    root = write({"shop/__init__.py": "", "shop/tasks.py": "from bundled_settings import X", "bundled_settings.py": ""})
    assert names(ship("shop.tasks", root / "shop/tasks.py"))[0] == "bundled_settings.py"


def test_a_relative_import_is_not_taken_for_one_of_a_sibling(write):
    root = write({"shop/__init__.py": "from .local import y\nfrom . import z", "local.py": "", "z.py": ""})
    assert names(ship("shop", root / "shop/__init__.py")) == ["shop/__init__.py"]


def test_a_folder_beside_the_code_is_not_taken_for_an_installed_package_of_that_name(write):
    assert "this" not in sys.modules  # the one is known to the worker, the other has to be looked for
    root = write({"tasks.py": "import pytest, this", "pytest/compose.yaml": "", "this/data.txt": ""})
    assert names(ship("tasks", root / "tasks.py")) == ["tasks.py"]


def test_the_bundle_runs_where_nothing_else_is(write, tmp_path_factory):
    root = write({"bundled_main.py": "import bundled_helper\nprint(bundled_helper.x)", "bundled_helper.py": "x = 'hi'"})
    place = tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(io.BytesIO(ship("bundled_main", root / "bundled_main.py").data)).extractall(place)
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(place)!r}); import bundled_main"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "hi\n"


def test_code_that_is_not_python_for_us_ships_all_the_same(write):
    root = write({"shop/__init__.py": "", "shop/template.py": "class {{ name }}:", "shop/nul.py": b"\0"})
    assert len(names(ship("shop", root / "shop/__init__.py"))) == 3


def test_from_site_packages_only_the_package_ships(write):
    root = write({"site-packages/shop/__init__.py": "import bundled_other", "site-packages/bundled_other.py": ""})
    assert names(ship("shop", root / "site-packages/shop/__init__.py")) == ["shop/__init__.py"]
    json = Path(sysconfig.get_path("stdlib")) / "json/__init__.py"
    assert all(name.startswith("json/") for name in names(ship("json", json)))


def test_code_root_ships_a_whole_folder_instead(write, monkeypatch):
    root = write({"src/shop/tasks.py": "", "src/templates/mail.txt": "", "src/.env": "", "other.py": ""})
    expected = ["shop/tasks.py", "templates/mail.txt"]
    assert names(ship("shop.tasks", "", root=str(root / "src"))) == expected
    monkeypatch.chdir(root)
    assert names(ship("shop.tasks", "", root="src")) == expected


def test_code_root_must_be_a_folder_that_contains_the_tasks_module(write):
    root = write({"src/shop/tasks.py": ""})
    with pytest.raises(InvalidSpec, match=r"task module shop\.tasks: code_root='.*/absent' is no folder"):
        ship("shop.tasks", "", root=str(root / "absent"))
    with pytest.raises(InvalidSpec, match="does not contain shop; name the folder that does"):
        ship("shop.tasks", "", root=str(root / "src/shop"))


def test_the_same_content_has_the_same_digest_wherever_and_whenever_it_was_written(write, tmp_path):
    content: dict[str, str | bytes] = {f"shop/{name}.py": name for name in ("__init__", "b", "a")}
    one = write(content, tmp_path / "one")
    two = write(dict(reversed(content.items())), tmp_path / "two")
    os.utime(two / "shop/a.py", (1, 1))
    first, second = (ship("shop", root / "shop/__init__.py") for root in (one, two))
    assert (first.digest, first.data) == (second.digest, second.data)
    assert re.fullmatch("[0-9a-f]{64}", first.digest)


def test_a_script_stays_executable(write):
    root = write({"shop/__init__.py": "", "shop/run.sh": "#!/bin/sh"})
    (root / "shop/run.sh").chmod(0o700)
    info = zipfile.ZipFile(io.BytesIO(ship("shop", root / "shop/__init__.py").data)).getinfo("shop/run.sh")
    assert oct(info.external_attr >> 16) == "0o100755"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "shop/tasks.py").write_text("longer than it was"),
        lambda root: (root / "shop/deep/new.txt").write_text(""),
        lambda root: (root / "shop/deep/old.txt").unlink(),
        lambda root: (root / "shop/deep/old.txt").rename(root / "shop/deep/renamed.txt"),
        lambda root: (root / "shop/deep").rename(root / "shop/deeper"),
        lambda root: (root / "bundled_late.py").write_text(""),
    ],
    ids=["edited", "added", "deleted", "renamed", "folder renamed", "sibling added"],
)
def test_a_change_of_the_source_is_seen_by_the_next_task(write, change):
    root = write({"shop/__init__.py": "", "shop/tasks.py": "import bundled_late", "shop/deep/old.txt": ""})
    before = ship("shop.tasks", root / "shop/tasks.py")
    change(root)
    assert ship("shop.tasks", root / "shop/tasks.py").digest != before.digest


def test_unchanged_source_is_not_read_again_though_files_beside_it_change(write):
    root = write({"shop/__init__.py": "", "shop/tasks.py": ""})
    before = ship("shop.tasks", root / "shop/tasks.py")
    write({"celerybeat-schedule.db": "", "worker.log": ""})
    assert ship("shop.tasks", root / "shop/tasks.py") is before


def test_asking_again_for_a_small_package_takes_less_than_a_millisecond(write):
    root = write({f"shop/part{n}/{name}.py": "import json" for n in range(5) for name in ("__init__", "a", "b", "c")})
    file = write({"shop/__init__.py": "", "shop/tasks.py": "import bundled_x"}, root) / "shop/tasks.py"
    ship("shop.tasks", file)
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        ship("shop.tasks", file)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.001


def test_links_within_the_folder_ship_what_they_lead_to(write):
    root = write({"shop/__init__.py": "", "bundled_common/x.py": "x = 1"})
    (root / "shop/x.py").symlink_to("../bundled_common/x.py")
    (root / "shop/common").symlink_to("../bundled_common")
    made = ship("shop", root / "shop/__init__.py")
    assert names(made) == ["shop/__init__.py", "shop/common/x.py", "shop/x.py"]
    assert read(made, "shop/common/x.py") == b"x = 1"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/passwd", "/etc/passwd, outside of"),
        ("../..", "outside of"),
        ("nowhere", "which does not exist"),
        (".", "a folder that it is in"),
    ],
)
def test_links_that_lead_out_or_nowhere_or_back_are_refused(write, target, reason):
    root = write({"shop/__init__.py": ""})
    (root / "shop/link").symlink_to(target)
    with pytest.raises(InvalidSpec, match=r"task module shop: .*shop/link is a symbolic link") as caught:
        ship("shop", root / "shop/__init__.py")
    assert reason in str(caught.value)


def test_a_project_folder_that_is_itself_behind_a_link_ships(write):
    root = write({"releases/5/shop/__init__.py": ""})
    (root / "current").symlink_to("releases/5")
    assert names(ship("shop", root / "current/shop/__init__.py")) == ["shop/__init__.py"]
    assert names(ship("shop", "", root=str(root / "current"))) == ["shop/__init__.py"]


def test_code_over_the_limit_is_refused_with_its_largest_files(write):
    root = write({"shop/__init__.py": "", "shop/model.bin": os.urandom(3 * MIB), "shop/small.bin": os.urandom(1024)})
    for limit in (MIB, 5 * MIB, MIB):  # read anew; and known already, from a task with a higher limit
        if limit > 3 * MIB:
            ship("shop", root / "shop/__init__.py", limit=limit)
            continue
        with pytest.raises(PayloadTooLarge, match=r"task module shop: .* 3\.\d+ MiB in 3 files") as caught:
            ship("shop", root / "shop/__init__.py", limit=limit)
        assert f"payload_max_bytes={MIB}" in str(caught.value)
        assert "The largest: shop/model.bin (3 MiB), shop/small.bin (1 KiB)" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "file", "reason"),
    [
        ("shop.tasks", "", "it has no file"),
        ("shop.tasks", "{root}/shop/tasks.pyc", "only compiled code"),
        ("shop.tasks", "{root}/app.zip/shop/tasks.py", "not a file that can be read"),
        ("other.tasks", "{root}/shop/tasks.py", "not where its name says"),
        ("__main__", "{root}/shop/tasks.py", "move the task to a module of its own"),
    ],
)
def test_code_without_source_is_refused_with_what_to_do(write, module, file, reason):
    root = write({"shop/tasks.py": "", "shop/tasks.pyc": ""})
    with pytest.raises(InvalidSpec, match=re.escape(f"task module {module}: ")) as caught:
        ship(module, file.format(root=root))
    assert reason in str(caught.value)
    assert 'code="image"' in str(caught.value)
    assert 'code_root="…"' in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_with_its_name(write):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        root = write({"shop/__init__.py": "", "shop/closed.py": ""}, Path(folder))
        root.chmod(0o755)
        (root / "shop/closed.py").chmod(0)
        os.seteuid(user or 65534)  # root can read everything
        try:
            with pytest.raises(InvalidSpec, match=r"task module shop: .*cannot be read: .*shop/closed\.py"):
                ship("shop", root / "shop/__init__.py")
        finally:
            os.seteuid(user)


def test_threads_that_ask_at_once_get_one_bundle(write):
    root = write({"shop/__init__.py": "", **{f"shop/m{n}.py": "import json" for n in range(50)}})
    barrier, made = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        made.append(ship("shop", root / "shop/__init__.py"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in made}) == 1


def test_a_source_that_is_being_read_does_not_hold_up_another(write):
    root = write({"slow/__init__.py": "", "quick/__init__.py": ""})
    ship("slow", root / "slow/__init__.py")
    with bundles._sources[str(root), "slow"]._lock:
        thread = threading.Thread(target=ship, args=("quick", root / "quick/__init__.py"))
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
