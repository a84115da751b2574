"""Libraries that are not installed everywhere."""

import importlib
import subprocess
import sys

import pytest

from cellwork import image_imports


def test_all_names_of_the_block_are_bound_and_used_as_a_module_uses_them():
    with image_imports():
        import nowhere_a
        import nowhere_b.sub.deep as deep
        from nowhere_c import Frame, ParseError

        class Child(Frame):
            pass

        class Error(ParseError):
            pass

        def function(x: "Frame | None", y: nowhere_a.X = None) -> "Frame[int]": ...

        annotation = Frame | None
    assert annotation is not None
    assert deep.anything.at.all
    assert isinstance(Child(), Child)
    assert issubclass(Error, Exception)
    with pytest.raises(ImportError, match="nowhere_c is not installed here"):
        Frame()


def test_nothing_is_left_for_others_to_find():
    with image_imports():
        assert importlib.import_module("nowhere_d").anything
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nowhere_d")
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == "cellwork.imports"]


def test_what_is_installed_is_the_real_one_and_its_errors_are_raised(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise ValueError('its own')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with image_imports():
        import json

        assert json.loads("1") == 1
        with pytest.raises(ValueError, match="its own"):
            importlib.import_module("broken_module")
        with pytest.raises(ImportError):
            importlib.import_module("json.nothing_of_that_name")


def test_a_librarys_own_optional_imports_are_told_the_truth(tmp_path, monkeypatch):
    library = "try:\n    import nowhere_e\n    found = True\nexcept ImportError:\n    found = False\n"
    (tmp_path / "library_with_options.py").write_text(library)
    monkeypatch.syspath_prepend(str(tmp_path))
    with image_imports():
        import library_with_options
    assert library_with_options.found is False


def test_importing_cellwork_adds_nothing_heavy():
    program = "import sys, cellwork; print(sorted({m.split('.')[0] for m in sys.modules} & {'docker', 'requests'}))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
