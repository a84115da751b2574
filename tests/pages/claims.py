"""Who types which line of a page: a test says so by taking it from here, or by typing the whole page."""

import ast
from collections.abc import Iterator

from pages import consoles
from pages.blocks import BLOCKS, ROOT

#: Lines that start this very run of the tests, or a part of it, which none of its tests can do.
RUNS_THESE = {
    ("README.md", "make test"),
    ("CONTRIBUTING.md", "make test"),
    ("CONTRIBUTING.md", ".venv/bin/pytest tests/unit"),
    ("CONTRIBUTING.md", ".venv/bin/pytest tests/pages"),
    ("CONTRIBUTING.md", ".venv/bin/pytest tests/integration -k leases"),
}

_TESTS = ROOT / "tests"


def console_lines() -> list[tuple[str, str]]:
    """Page and line of all consoles, without comments; those of examples/ are held in tests/examples."""
    return [
        (block.page, consoles.bare(line))
        for block in BLOCKS
        if block.language == "console" and not block.page.startswith("examples/")
        for line in consoles.lines(block)
    ]


def the_lines(page: str, *wordings: str) -> list[str]:
    """The page's lines that have one of these wordings in them, which are all to be there. Whoever asks types them."""
    found = [line for of, line in console_lines() if of == page and any(wording in line for wording in wordings)]
    for wording in wordings:
        assert any(wording in line for line in found), f"{page} has no line with {wording!r}"
    return found


def the_line(page: str, wording: str) -> str:
    """The page's only such line."""
    (line,) = the_lines(page, wording)
    return line


def nobodys() -> list[str]:
    """Lines that no test types."""
    calls = list(_calls())
    whole = {page for name, (page, *_) in calls if name == "types_page"}
    by_wording = {(page, wording) for name, (page, *wordings) in calls if name != "types_page" for wording in wordings}
    return [
        f"{page}: {line}"
        for page, line in console_lines()
        if page not in whole
        and (page, line) not in RUNS_THESE
        and not any(page == of and wording in line for of, wording in by_wording)
    ]


def typed_elsewhere(page: str) -> list[str]:
    """Lines of a page that a test asks for by their wording."""
    wordings = [wording for name, (of, *rest) in _calls() if name != "types_page" and of == page for wording in rest]
    return [line for of, line in console_lines() if of == page and any(wording in line for wording in wordings)]


def _calls() -> Iterator[tuple[str, list[str]]]:
    """Function and texts of each call of one of these, in all tests."""
    for path in _TESTS.rglob("test_*.py"):
        text = path.read_text()
        if "the_line" in text or "types_page" in text:
            yield from _calls_in(ast.parse(text))


def _calls_in(module: ast.Module) -> Iterator[tuple[str, list[str]]]:
    texts = {
        target.id: one.value.value
        for one in module.body
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        if name in ("the_line", "the_lines", "types_page"):
            yield name, [str(_text(one, texts)) for one in node.args]


def _text(argument: ast.expr, texts: dict[str, object]) -> object:
    """A text as it stands, or a constant of the module."""
    if isinstance(argument, ast.Constant):
        return argument.value
    return texts.get(argument.id) if isinstance(argument, ast.Name) else None
