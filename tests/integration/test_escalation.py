"""A task that the kernel kills for memory is started again with more, and keeps its own retries."""

import pytest

from cellwork.errors import OutOfMemory

TIMEOUT = 100


def test_a_task_that_is_killed_for_memory_ends_well_with_more(hostile, shared_worker):
    result = hostile.needs_memory.apply_async((180,), memory="64m", memory_max="1g")
    assert result.get(timeout=TIMEOUT) == [180, 0]
    starts = [line for line in shared_worker.text.splitlines() if result.id in line and "starts again with" in line]
    assert [line.partition("starts again with ")[2].partition(":")[0] for line in starts] == ["128 MiB", "256 MiB"]


def test_at_its_maximum_it_fails_and_says_what_was_tried(hostile):
    result = hostile.eats_memory.apply_async(memory="48m", memory_max="100m")
    with pytest.raises(OutOfMemory, match="tried with 48 MiB, 96 MiB, 100 MiB, which is memory_max"):
        result.get(timeout=TIMEOUT)
