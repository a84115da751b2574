"""A reader for each test."""

from collections.abc import Iterator

import pytest
import redis
from pages.reader import Reader


@pytest.fixture
def reader(request, broker, engine, tmp_path) -> Iterator[Reader]:
    somebody = Reader(tmp_path, broker, request.node.name[:30].replace("_", "-").strip("-"))
    yield somebody
    left = engine.api.containers(all=True, filters={"label": f"cellwork.installation={somebody.installation}"})
    assert left == []
    for number in (6, 7):
        with redis.Redis.from_url(f"{broker}/{number}") as database:
            database.flushdb()
