"""Where a worker finds secrets, and what it says where it does not."""

from pathlib import Path

import pytest

from cellwork import spec as specs
from cellwork.errors import InvalidSpec
from cellwork_worker.secret_source import SecretSource


def test_a_file_wins_over_the_environment_and_a_mapping_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "DB").write_text("from the file\n")
    monkeypatch.setenv("CELLWORK_SECRET_DB", "from the environment")
    monkeypatch.setenv("CELLWORK_SECRET_KEY", "another")
    spec = specs.parse("t", {"secrets": {"PGPASSWORD": "DB", "KEY": "KEY"}})
    assert SecretSource(str(tmp_path))("t", spec) == {"PGPASSWORD": "from the file", "KEY": "another"}
    assert SecretSource(None)("t", spec)["PGPASSWORD"] == "from the environment"


def test_a_secret_that_is_missing_or_too_short_is_named_and_its_value_is_not(tmp_path, monkeypatch):
    spec = specs.parse("shop.t", {"secrets": ("NOPE",)})
    with pytest.raises(InvalidSpec, match=r"task shop\.t: there is no secret NOPE here: no file .*/NOPE, and no CELL"):
        SecretSource(str(tmp_path))("shop.t", spec)
    monkeypatch.setenv("CELLWORK_SECRET_NOPE", "abc")
    with pytest.raises(InvalidSpec) as caught:
        SecretSource(None)("shop.t", spec)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("value", ["DB", ("../etc/passwd",), {"A": "b/c"}, {"A B": "C"}, 3, (4,)])
def test_a_name_is_a_name_and_no_path(value):
    with pytest.raises(InvalidSpec, match="secrets takes names of secrets, such as"):
        specs.parse("t", {"secrets": value})
