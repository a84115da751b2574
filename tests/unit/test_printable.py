"""Nothing that a task prints is obeyed by a terminal."""

import pytest

from cellwork.printable import printable


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain täxt\tand a tab", "plain täxt\tand a tab"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("over\rwritten\b", "over\\rwritten\\x08"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("turned \u202e round", "turned \\u202e round"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(printed, shown):
    assert printable(printed) == shown
