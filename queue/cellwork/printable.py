"""What a task printed, made safe for a terminal. Pure."""


def printable(text: str) -> str:
    """`text` with everything that a terminal would obey, tabs aside, shown escaped instead.

    Control characters, escape sequences and characters that turn the direction of writing are among it.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text)
