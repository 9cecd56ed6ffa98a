"""The documentation builds without a warning, and a reader's browser asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.tools import missing

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("material") is None:
        missing("mkdocs-material", "pip install 'glassbridge[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_strictly_with_every_page(site: Path) -> None:
    pages = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")
    }
    built = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert pages - built == {"failures-not-applicable.html"}  # for the tests, not for readers


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+|<link\b[^>]*>", re.I
    )
    for page in site.rglob("*.html"):
        foreign = [
            tag
            for tag in loads.findall(page.read_text())
            if not tag.startswith("<link")
            or (re.search(r"href=[\"']?(?:https?:)?//", tag) and "canonical" not in tag)
        ]
        assert foreign == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_every_generated_and_written_page_is_reachable_from_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    hidden = {"failures-not-applicable.md"}
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - hidden
    assert {page for page in pages if not re.search(rf"[ ]{re.escape(page)}$", navigation, re.M)} == set()
