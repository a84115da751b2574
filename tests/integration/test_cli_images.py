"""``cellwork images`` as a user types it."""

import json
import os
import re
import subprocess
import sys
import uuid

import builtimages
import pytest
from conftest import PROJECT
from docker.errors import APIError
from storing_registry import storing


@pytest.fixture
def name() -> str:
    return f"cupboard-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stock(tmp_path, name):
    (tmp_path / "stock").mkdir()
    file = tmp_path / "stock" / "flour"
    file.write_text(f"flour {name}\n")
    return file


@pytest.fixture
def images(broker, engine, name, stock):
    """Type ``cellwork images …``; what it built is removed afterwards."""

    def run(
        *words: str, as_celery: bool = False, group: str = "images", **env: str
    ) -> "subprocess.CompletedProcess[str]":
        if not group:
            command = ["cellwork", *words]
        elif as_celery:
            command = ["celery", "-A", "cupboard", "cellwork", "images", *words]
        else:
            command = ["cellwork", "images", "-A", "cupboard", *words]
        variables = {**os.environ, "COLUMNS": "250", "PANTRY_ROOT": str(stock.parents[1]), "PANTRY_NAME": name, **env}
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            env=variables,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    yield run
    builtimages.remove(engine, name)


def good(ran: "subprocess.CompletedProcess[str]") -> list:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_build_makes_what_is_missing_ls_shows_it_and_prune_removes_what_is_no_more_declared(images, stock, engine):
    (missing,) = good(images("ls", "--json"))
    assert (missing["size"], missing["tasks"]) == (None, ["cupboard.shelf"])
    building = images("build", "--json")
    (built,) = good(building)
    assert (built["image"], built["built"]) == (missing["image"], True)
    # Its bar, as it is in the end: all steps.
    assert re.search(rf"{re.escape(built['image'])} ━+ (\d+)/\1 ", building.stderr), building.stderr
    assert good(images("build", "--json", as_celery=True))[0]["built"] is False
    (listed,) = good(images("ls", "--json"))
    assert listed["id"] == built["id"] == engine.images.get(built["image"]).id
    assert listed["size"] > 1 << 20
    assert "cupboard.shelf" in images("ls").stdout
    assert good(images("prune", "--json")) == []

    stock.write_text("fresh " + stock.read_text())
    assert [row["image"] for row in good(images("prune", "--dry-run", "--json"))] == [built["image"]]
    assert engine.images.get(built["image"]).id == built["id"]
    assert good(images("prune", "--json"))[0]["kept"] is None
    with pytest.raises(APIError, match="No such image"):
        engine.images.get(built["image"])


def test_prune_keeps_an_image_that_a_container_uses(images, stock, engine):
    (built,) = good(images("build", "--json"))
    container = engine.api.create_container(built["image"], ["true"])
    try:
        stock.write_text("fresh " + stock.read_text())
        assert "is using its referenced image" in good(images("prune", "--json"))[0]["kept"]
    finally:
        engine.api.remove_container(container, force=True)


def test_diff_says_what_would_be_built_and_why(images, stock):
    ran = images("diff")
    assert (ran.returncode, "never built here" in ran.stdout) == (1, True)
    good(images("build", "--json"))
    assert (images("diff").returncode, good(images("diff", "--json"))) == (0, [])
    stock.write_text("fresh " + stock.read_text())
    assert "(other files)" in images("diff").stdout
    ran = images("diff", CUPBOARD_PRICE="6")
    assert (ran.returncode, "(other steps)" in ran.stdout) == (1, True)
    assert '-ENV PRICE="5"\n+ENV PRICE="6"' in ran.stdout


def test_a_build_that_fails_ends_with_status_1_and_the_steps_last_lines(images):
    ran = images("build", CUPBOARD_COMMAND="echo flour is out; exit 3")
    assert ran.returncode == 1
    assert "Error: image cellwork/busybox:" in ran.stderr
    assert "  flour is out" in ran.stderr
    assert "Traceback" not in images("build", as_celery=True, CUPBOARD_COMMAND="exit 3").stderr


SECRETS = {"CELLWORK_SECRET_TOKEN": "hush-hush-hush", "CELLWORK_SECRET_KEY": "-----BEGIN\nkey of two lines\n"}


def test_a_step_sees_its_secrets_and_nothing_keeps_them(images, engine):
    """Nor what the build says, nor the layers, the history, the labels, or the engine's list of containers."""
    command = "cd /run/secrets && cat TOKEN KEY && cat TOKEN KEY | wc -c > /size"
    ran = images("build", "--json", CUPBOARD_SECRET_COMMAND=command, **SECRETS)
    (built,) = good(ran)
    image = engine.images.get(built["image"])
    layers = b"".join(image.save())
    everything = [ran.stderr, json.dumps(image.attrs), json.dumps(image.history())]
    for value in (b"hush-hush", b"key of two lines"):
        assert value not in layers
        assert not any(value.decode() in text for text in everything)
    base = engine.images.get("cellwork/busybox:base")
    starts = [(one.attrs["Config"]["Cmd"], one.attrs["Config"]["Entrypoint"] or None) for one in (image, base)]
    assert starts[0] == starts[1]
    assert {"PRICE=5", "AFTER=it"} <= set(image.attrs["Config"]["Env"])
    said = engine.containers.run(
        built["image"], ["sh", "-c", "cat /size; ls /run/secrets"], remove=True, network_mode="none"
    )
    assert said == b"42\n"
    assert not engine.api.containers(all=True, filters={"ancestor": built["image"]})
    (again,) = good(images("build", "--json", CUPBOARD_SECRET_COMMAND=command))
    assert again["built"] is False, "and so needs no secret"


def test_a_step_with_secrets_that_fails_quotes_its_lines_without_them(images):
    ran = images("build", CUPBOARD_SECRET_COMMAND="echo flour is out; cat /run/secrets/TOKEN; exit 3", **SECRETS)
    assert ran.returncode == 1
    # The classic builder's words, or BuildKit's.
    assert re.search(r"step (5/6|3/3) \(RUN --mount=type=secret,id=TOKEN", ran.stderr)
    assert re.search(r"(failed: status|exit code:) 3\nIts last lines:\n  flour is out\n  \[redacted\]\n", ran.stderr)
    ran = images("build", CUPBOARD_SECRET_COMMAND="true")
    assert (ran.returncode, "there is no secret TOKEN here" in ran.stderr) == (1, True)


def test_a_push_to_a_registry_that_does_not_answer_is_one_clear_error(images):
    good(images("build", "--json"))
    ran = images("push")
    assert (ran.returncode, "Say --registry" in ran.stderr) == (2, True)
    ran = images("push", "--registry", "127.0.0.1:1")
    assert ran.returncode == 1
    assert "cannot be pushed" in ran.stderr
    assert "docker login 127.0.0.1:1" in ran.stderr


def test_what_was_pushed_is_the_same_bytes_by_its_digest(images, engine, stock):
    (built,) = good(images("build", "--json"))
    with storing() as registry:
        digests = stock.with_name("digests.json")
        pushing = images("push", "--registry", registry.name, "--digests", str(digests), "--json")
        (pushed,) = good(pushing)
        # Its bar, as it is in the end: all bytes.
        assert re.search(rf"{re.escape(pushed['image'])} ━+ ([\d.]+)/\1 [kM]?B", pushing.stderr), pushing.stderr
        assert json.loads(digests.read_text()) == {built["image"]: pushed["digest"]}
        assert pushed["image"] == f"{registry.name}/{built['image']}"
        assert pushed["digest"].startswith(f"{registry.name}/cellwork/busybox@sha256:")
        engine.api.remove_image(built["id"], force=True)
        engine.api.pull(pushed["digest"])
        assert engine.images.get(pushed["digest"]).id == built["id"]


def test_doctor_asks_the_registries_that_images_name(images, broker):
    def row() -> dict:
        ran = images("doctor", "-A", "cupboard", "--json", group="", CUPBOARD_REGISTRY=registry.name)
        return next(row for row in json.loads(ran.stdout) if row["what"] == "registry")

    with storing() as registry:
        missing = row()
        assert not missing["ok"], "neither on the engine nor in its registry"
        assert "0 of 1 give what is asked for" in missing["detail"]
        (built,) = good(images("build", "--json", CUPBOARD_REGISTRY=registry.name))
        (pushed,) = good(images("push", "--json", CUPBOARD_REGISTRY=registry.name))
        digest = pushed["digest"].partition("@")[2]
        assert row()["facts"][registry.name] == f"has {built['image']} as {digest}"
    gone = row()
    assert gone["ok"], "the image is here"
    assert gone["detail"] == f"0 of 1 give what is asked for; not: {registry.name} (the images are here)"


def test_without_an_engine_every_command_says_how_to_start_one(images):
    for word in ("build", "ls", "prune", "diff"):
        ran = images(word, DOCKER_HOST="unix:///nowhere/docker.sock")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "no Docker engine answers at unix:///nowhere/docker.sock" in ran.stderr or "nowhere" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_from_venv_packs_libraries_without_an_index_and_refuses_another_python(images, engine, tmp_path):
    libraries = tmp_path / "site"
    libraries.mkdir()
    (libraries / "flour.py").write_text("KIND = 'rye'\n")
    tag = f"cellwork-test/venv:{uuid.uuid4().hex[:12]}"

    def pack(base: str) -> "subprocess.CompletedProcess[str]":
        return images("from-venv", tag, "--base", base, "--site-packages", str(libraries), "--json")

    ran = pack("cellwork/python:other")
    assert (ran.returncode, "give --base" in ran.stderr) == (1, True)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    there = engine.containers.run("cellwork/python:base", ["python3", "-c", script], remove=True, network_mode="none")
    if there.decode().strip() != here:
        ran = pack("cellwork/python:base")
        assert f"this environment {here} on" in ran.stderr
        return
    try:
        assert good(pack("cellwork/python:base"))[0]["image"] == tag
        said = engine.containers.run(
            tag, ["python3", "-c", "import flour; print(flour.KIND)"], remove=True, network_mode="none"
        )
        assert said == b"rye\n"
    finally:
        engine.api.remove_image(tag, force=True)
