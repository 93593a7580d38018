#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the documentation a site in site/, as mkdocs.yml says. A broken link is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / ".site-pages"

#: Pages of the site that do not lie in docs/.
OUTSIDE = ("benchmarks/RESULTS.md", "CHANGELOG.md")


def main() -> int:
    _gather()
    zensical = Path(sys.executable).parent / "zensical"
    done = subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if done.returncode == 0:
        print("The site: site/index.html")
    return done.returncode


def _gather() -> None:
    """All pages in one folder: links that lead out of docs/ stay inside the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    for path in OUTSIDE:
        (PAGES / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, PAGES / path)
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path in OUTSIDE:
            text = text.replace(f"](../{path}", f"]({path}")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
