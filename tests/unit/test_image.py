"""Images as values: the Dockerfile they make, and when their tag changes."""

import pytest

from cellwork import Image
from cellwork.errors import InvalidSpec
from cellwork_worker.executors.docker.progress import Progress


@pytest.fixture
def image(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "prices.py").write_text("GROSS = 1.19\n")
    return Image("python:3.12-slim", root=str(tmp_path))


def test_steps_become_a_dockerfile_in_their_order(image):
    made = image.apt("libpq5").pip("pandas==2.2.3", "psycopg[binary]").copy("shop/").run("echo $HOME").user("shop")
    first, apt, pip, copy, path, run, user = made.text.splitlines()
    assert first == "FROM python:3.12-slim"
    assert "--no-install-recommends libpq5 &&" in apt
    assert pip.startswith('RUN ["python3", "-m", "pip", "install"')
    assert pip.endswith('"pandas==2.2.3", "psycopg[binary]"]')
    assert (copy, path) == ('COPY ["shop", "/opt/cellwork/app/shop"]', 'ENV PYTHONPATH="/opt/cellwork/app"')
    assert run == 'RUN ["/bin/sh", "-c", "echo $HOME"]'
    assert user == "USER shop"
    assert image.steps == ()


def test_values_of_env_are_taken_as_they_are(image):
    assert image.env(PRICE='5 $ "net" \\').text.splitlines()[1] == r'ENV PRICE="5 \$ \"net\" \\"'
    with pytest.raises(InvalidSpec, match="one-line strings"):
        image.env(PRICE="5\nUSER root")


def test_the_tag_changes_with_a_step_a_files_content_its_name_and_its_mode(image, tmp_path):
    made = image.copy("shop/")
    tags = [made.tag, made.pip("six").tag]
    file = tmp_path / "shop" / "prices.py"
    file.write_text("GROSS = 1.07\n")
    tags.append(made.tag)
    file.chmod(0o755)
    tags.append(made.tag)
    file.rename(tmp_path / "shop" / "taxes.py")
    tags.append(made.tag)
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith("cellwork/python:") and len(tag.split(":")[1]) == 12 for tag in tags)


def test_hidden_and_compiled_files_stay_behind_and_change_nothing(image, tmp_path):
    made = image.copy("shop/")
    before = made.tag
    (tmp_path / "shop" / ".env").write_text("PASSWORD=hush")
    (tmp_path / "shop" / "__pycache__").mkdir()
    (tmp_path / "shop" / "__pycache__" / "prices.pyc").write_bytes(b"0")
    assert made.tag == before
    assert [file.name for file in made.context] == ["shop/prices.py"]


def test_a_registry_is_part_of_the_tag_and_of_nothing_else(image, tmp_path):
    there = Image("python:3.12-slim", root=str(tmp_path), registry="registry.example:5000")
    assert there.tag == f"registry.example:5000/{image.tag}"


def test_a_requirements_file_is_copied_and_hashed_and_may_not_include_others(image, tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("six==1.17.0\n")
    made = image.pip(requirements="requirements.txt")
    before = made.tag
    assert 'COPY ["requirements.txt", "/opt/cellwork/build/requirements.txt"]' in made.text
    assert '"--requirement", "/opt/cellwork/build/requirements.txt"]' in made.text
    file.write_text("six==1.16.0\n")
    assert made.tag != before
    file.write_text("-r more.txt\n")
    with pytest.raises(InvalidSpec, match="includes other files"):
        image.pip(requirements="requirements.txt")


def test_secrets_are_named_in_the_steps_that_see_them(image):
    made = image.run("npm ci", secrets=("NPM", "KEY")).pip("shop", index_secret="INDEX").run("true")
    assert made.secrets == ("NPM", "KEY", "INDEX")
    assert made.steps[0] == (
        "RUN --mount=type=secret,id=NPM,required=true --mount=type=secret,id=KEY,required=true "
        '["/bin/sh", "-c", "npm ci"]'
    )
    assert "PIP_INDEX_URL=" in made.steps[1]
    assert image.run("npm ci").tag != image.run("npm ci", secrets=("NPM",)).tag
    with pytest.raises(InvalidSpec, match="takes a list of names"):
        image.run("true", secrets=("a,target=/etc",))


def test_a_secret_in_two_pieces_and_an_address_password_are_told_to_nobody():
    said: list[str] = []
    progress = Progress("a:1", lambda step, of, text: said.append(text), ["hush-hush", "https://me:pass-word@index/"])
    progress.at(1, 2, "RUN echo hush-hush")
    progress.printed_by(1, b"it is hush-")
    progress.printed_by(1, b"hush\nand pass-word\n")
    told = str(progress.failed("status 1: hush-hush"))
    assert "hush" not in told + str(said)
    assert "pass-word" not in told
    assert "step 1/2 (RUN echo [redacted]) failed: status 1: [redacted]" in told


def test_a_pyprojects_dependencies_are_installed_and_a_lock_beside_it_decides_versions(image, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\ndependencies = ["six>=1.16"]\n')
    assert image.pip(pyproject="pyproject.toml").text.endswith('"six>=1.16"]\n')
    (tmp_path / "uv.lock").write_text("version = 1\n")
    locked = image.pip(pyproject="pyproject.toml").text
    assert 'COPY ["uv.lock", "/opt/cellwork/build/uv.lock"]' in locked
    assert "uv export --frozen" in locked
    assert '"--requirement", "/opt/cellwork/build/cellwork.lock"]' in locked


def test_a_dockerfile_of_ones_own_names_its_files_and_its_bases_are_found(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM --platform=linux/amd64 golang:1 AS build\nFROM build\nFROM alpine:3\n")
    (tmp_path / "go.mod").write_text("module shop\n")
    image = Image(dockerfile="Dockerfile", files=("go.mod",), name="tools", root=str(tmp_path))
    assert image.bases == ("golang:1", "alpine:3")
    assert [file.name for file in image.context] == ["go.mod"]
    with pytest.raises(InvalidSpec, match="the steps are written there"):
        image.run("true")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda image: image.copy("nothere"), "there is no 'nothere'"),
        (lambda image: image.copy("../x"), "leads out of"),
        (lambda image: image.copy("shop", "relative"), "absolute path in the image"),
        (lambda image: image.apt("a; rm -rf /"), "names of Debian packages"),
        (lambda image: image.pip("--index-url=http://x"), "it takes packages"),
        (lambda image: image.pip("six", index_url="https://me:hush@index.example/simple"), "has a password"),
        (lambda image: image.user("root\nRUN x"), '"name" or "uid:gid"'),
        (lambda image: Image(), "give a base"),
        (lambda image: Image("python:3\nRUN true"), "it takes the name of an image"),
    ],
)
def test_what_is_not_accepted_is_told_where_it_is_written(image, wrong, told):
    with pytest.raises(InvalidSpec, match=told):
        wrong(image)


def test_relative_paths_start_where_the_declaring_modules_package_is(tmp_path, monkeypatch):
    import importlib

    package = tmp_path / "bistro"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text('from cellwork import Image\nIMAGE = Image("python:3.12-slim").copy("bistro/")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    found = importlib.import_module("bistro.tasks").IMAGE
    assert found.root == str(tmp_path)
    assert [file.name for file in found.context] == ["bistro/__init__.py", "bistro/tasks.py"]


def test_cuda_starts_from_nvidias_image_with_python():
    assert Image.cuda("12.6.3").text.startswith("FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu22.04\nRUN ")
