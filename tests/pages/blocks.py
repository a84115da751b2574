"""Every example of the pages: the fenced blocks of README.md, docs/, and the other folders' README files."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "compose/**/*.md", "k8s/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)

_FENCED = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One example. `page` is the path from the repository's folder."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _of(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(str(path.relative_to(ROOT)), text.count("\n", 0, at.start()) + 1, at[2], textwrap.dedent(at[3]))
        for at in _FENCED.finditer(text)
    ]


BLOCKS = [block for path in PAGES for block in _of(path)]


def blocks(page: str, language: str) -> list[Block]:
    """The examples of a page in one language, in their order."""
    return [block for block in BLOCKS if (block.page, block.language) == (page, language)]
