"""What needs no service."""

import pytest


@pytest.fixture(autouse=True)
def apart(no_broker_named) -> None:
    """Nor finds one that tests with services have started in the same process."""
