"""A hook of mkdocs: pages are written for GitHub's Markdown and the repository's folders; here they become a site.

Links are written as they hold in the repository. What they lead to outside of docs/ (compose/README.md, CHANGELOG.md,
a manifest) is part of the site, too, and links from there lead back.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

#: Without it Mermaid comes from a public server when a page with a diagram is read.
MERMAID = ROOT / "build" / "mermaid.min.js"

_LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
#: A list or table right below a line of text, or a block: GitHub sees it, Python-Markdown wants an empty line before.
_BEGINS = re.compile(r"(\A\n|^(?![-*] |\d+\. |[ |>#])[^\n]*\S[^\n]*\n)(?=- |\d+\. |\|)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Have the pages load our copy of Mermaid, where there is one."""
    if MERMAID.exists():
        config.extra_javascript.append("mermaid.min.js")  # type: ignore[arg-type]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what pages link to outside of docs/."""
    if MERMAID.exists():
        files.append(File.generated(config, "mermaid.min.js", abs_src_path=str(MERMAID)))
    pages = [file for file in files if file.is_documentation_page()]
    for page in pages:
        for path in _targets(page):
            if (ROOT / path).is_file() and files.get_file_from_path(_in_site(path)) is None:
                added = File.generated(config, _in_site(path), abs_src_path=str(ROOT / path))
                files.append(added)
                pages += [added] if added.is_documentation_page() else []


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's."""
    here = page.file.src_uri

    def turned(match: re.Match[str]) -> str:
        path = _in_site(normpath(join(dirname(_in_repository(here)), match[1])))
        return f"]({relpath(path, dirname(here) or '.')}{match[2] or ''})"

    parts = _FENCED.split(markdown)
    parts[::2] = [_BEGINS.sub(r"\1\n", _LINK.sub(turned, part)) for part in parts[::2]]
    return "".join(parts)


def _targets(page: File) -> Iterator[str]:
    """What a page links to, as paths of the repository."""
    for text in _FENCED.split(page.content_string)[::2]:
        for match in _LINK.finditer(text):
            yield normpath(join(dirname(_in_repository(page.src_uri)), match[1]))


def _in_repository(path: str) -> str:
    return f"docs/{path}" if (ROOT / "docs" / path).exists() else path


def _in_site(path: str) -> str:
    return path.removeprefix("docs/")
