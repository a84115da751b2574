"""The runner's own reader of zip files, against the standard library's writer."""

import importlib
import io
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
