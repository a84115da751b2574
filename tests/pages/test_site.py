"""docs/ becomes a site: without a warning, a dead link or anything that is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages.blocks import PAGES, ROOT

#: Nothing answers there.
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **NO_NETWORK, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def html(page: str, site: Path) -> Path:
    return site / re.sub(r"(README)?\.md$", lambda found: "index.html" if found[1] else ".html", page)


def test_every_page_of_the_documentation_is_in_it(site):
    theirs = [str(page.relative_to(ROOT)) for page in PAGES if page != ROOT / "README.md"]
    missing = [page for page in theirs if not html(page.removeprefix("docs/"), site).exists()]
    assert missing == [], "no page of docs/ leads there"
    assert len(theirs) > 25


def test_nothing_of_a_page_comes_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert re.findall(r"<(?:script|img|iframe)[^>]*src=\"https?:", text) == [], page
        assert re.findall(r"<link[^>]*href=\"https?:[^>]*>", text) == [], page


def test_lists_and_tables_are_such_for_its_markdown_too(site):
    """GitHub takes a list right below a line of text; Python-Markdown takes it for more text."""
    for page in site.rglob("*.html"):
        paragraphs = re.findall(r"<p>(.*?)</p>", page.read_text(), re.DOTALL)
        assert [text for text in paragraphs if re.search(r"\n(?:- |\d+\. |\|)", text)] == [], page


def test_the_reference_has_every_public_name_with_its_docstring(site):
    import cellwork

    text = (site / "reference.html").read_text()
    names = set(cellwork.__all__) - {"__version__"}
    assert [name for name in names if f"cellwork.{name}" not in text and f'id="cellwork.{name}' not in text] == []
    assert "Seconds between a signal that asks a sandbox to end" in text, "comments on settings"
    assert "Carries the tail of its log" in text, "errors"


def test_options_and_settings_are_tables_on_their_page(site):
    text = (site / "options.html").read_text()
    assert text.count("<table>") == 3
    assert "<code>kube_qps</code>" in text
