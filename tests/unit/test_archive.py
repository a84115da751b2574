"""The runner's own reader of zip files, against the standard library's writer."""

import importlib
import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

archive = importlib.import_module("cellwork_worker.runner.archive")

names = st.lists(
    st.text("abcü文 -_.", min_size=1, max_size=8).filter(lambda name: name.strip(".")), min_size=1, max_size=3
)
files = st.dictionaries(names.map("/".join), st.binary(max_size=2000), max_size=8)


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


@given(files, st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]))
def test_every_entry_is_read_as_it_was_written(entries, method):
    assert dict(archive._entries(zipped(entries, method))) == entries


def test_the_files_lie_in_a_new_folder_that_only_the_user_can_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bundle = zipped({"shop/": b"", "shop/tasks.py": b"A = 1\n", "shop/data/deep/x.bin": bytes(range(256))})
    roots = [Path(archive.unpack(bundle)) for _ in range(2)]
    assert len({*roots}) == 2
    for root in roots:
        assert root.parent == tmp_path
        assert root.stat().st_mode & 0o777 == 0o700
        assert (root / "shop/tasks.py").read_text() == "A = 1\n"
        assert (root / "shop/data/deep/x.bin").read_bytes() == bytes(range(256))


def compiled(root: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in root.rglob("*.pyc"))


def test_code_that_is_compiled_ahead_is_imported_without_its_source(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "ahead_shop").mkdir()
    (tmp_path / "ahead_shop/__init__.py").write_text("")
    source = tmp_path / "ahead_shop/tasks.py"
    source.write_text("A = 1\n")
    archive.compile_ahead(str(tmp_path))
    assert sys.dont_write_bytecode
    times = source.stat()
    source.write_text("A = 2\n")
    os.utime(source, (times.st_atime, times.st_mtime))
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("ahead_shop.tasks").A == 1, "it was read from the source"


def test_what_does_not_compile_or_warns_is_left_to_its_import(tmp_path, recwarn):
    for name, text in {"good": "A = 1", "bad": "A =", "warns": "A = 1 is 1", "data": "A = '\\d'"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    archive.compile_ahead(str(tmp_path))
    assert compiled(tmp_path) == ["good"]
    assert not recwarn.list


def test_more_code_than_is_quickly_compiled_is_not_compiled_ahead(tmp_path):
    (tmp_path / "long.py").write_text("#" * (128 << 10))
    (tmp_path / "short.py").write_text("A = 1")
    archive.compile_ahead(str(tmp_path))
    assert compiled(tmp_path) == []


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "shop/../../evil.py"])
def test_an_entry_outside_of_the_folder_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "inner"))
    (tmp_path / "inner").mkdir()
    with pytest.raises(RuntimeError, match="outside"):
        archive.unpack(zipped({name: b""}))
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("data", [b"", b"no zip file", zipped({"a": b"b"}).replace(b"PK\1\2", b"PK??")])
def test_what_is_no_zip_file_is_refused(data):
    with pytest.raises(RuntimeError, match="code bundle is"):
        list(archive._entries(data))
