"""scripts/base-images.sh: an official image where a registry answers, a stand-in where none does."""

import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from pages.blocks import ROOT
from registry import serving

#: Obtains an image; the stand-in is the tests' own one, under that name.
OBTAIN = """
source scripts/base-images.sh
work=$1
stand_in() { docker tag cellwork/busybox:base "$1"; }
obtain "$2" "$3" stand_in
"""


@pytest.fixture
def image(engine) -> Iterator[str]:
    """A name for what is obtained."""
    name = f"cellwork-test/obtained:{uuid.uuid4().hex[:12]}"
    yield name
    engine.images.remove(name)


@pytest.fixture
def obtain(image, tmp_path):
    """Obtain it from an official image; gives what is said about it."""

    def run(official: str) -> str:
        command = ["bash", "-c", OBTAIN, "obtain", str(tmp_path), image, official]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    return run


@pytest.fixture
def registry(engine):
    with serving(engine.images.get("cellwork/busybox:base")) as registry:
        yield registry


def test_the_official_image_is_pulled_where_its_registry_answers(obtain, registry, image, engine):
    official = f"{registry.name}/library/busybox:stable"
    assert f"base-images: {image}: pulled {official}" in obtain(official)
    assert registry.asked
    assert official in engine.images.get(image).tags
    engine.images.remove(official)


def test_a_registry_that_hangs_is_given_up_after_ten_seconds_and_a_stand_in_is_made(obtain, registry, image, engine):
    registry.answering.clear()
    official = f"{registry.name}/library/busybox:stable"
    began = time.monotonic()
    said = obtain(official)
    assert time.monotonic() - began > 9  # the shell counts whole seconds
    assert f"because {official} cannot be pulled: no answer from the registry in 10 s" in said
    assert f"{image}: stand-in made" in said
    assert engine.images.get(image).id == engine.images.get("cellwork/busybox:base").id


def test_a_registry_that_refuses_is_quoted_and_a_stand_in_is_made(obtain, image, engine):
    official = "127.0.0.1:1/library/busybox:stable"
    said = obtain(official)
    assert f"because {official} cannot be pulled: " in said
    assert "connection refused" in said
    assert engine.images.get(image)
