"""``code="image"``: the image carries the code."""

import io
import tarfile
import uuid

import pytest
from conftest import PROJECT

TAG = f"cellwork-test/shop:{uuid.uuid4().hex[:12]}"


@pytest.fixture
def shop_image(engine, remove_image):
    """An image with the shop installed where Python finds it."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(PROJECT / "shop", "shop")
        dockerfile = b"FROM cellwork/python:base\nCOPY shop /opt/shop/shop\nENV PYTHONPATH=/opt/shop\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile)
        tar.addfile(info, io.BytesIO(dockerfile))
    context.seek(0)
    engine.images.build(fileobj=context, custom_context=True, tag=TAG, rm=True)
    yield TAG
    remove_image(TAG)


def test_the_images_own_code_runs(tasks, shop_image):
    where = tasks.code_file.apply_async(image=shop_image, code="image", warm=False).get(timeout=60)
    assert where == "/opt/shop/shop/tasks.py"
    assert tasks.code_file.delay().get(timeout=60).startswith("/tmp/")


def test_an_image_without_the_code_says_which_module_it_lacks(tasks):
    with pytest.raises(ModuleNotFoundError, match="shop"):
        tasks.code_file.apply_async(code="image").get(timeout=60)
