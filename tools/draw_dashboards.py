#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws dashboards/*.json as pictures: a real Prometheus with a day of simulated nodes answers
every panel's queries, Chromium takes the picture of a page that shows them in the dashboard's grid.

    .venv/bin/python tools/draw_dashboards.py [--empty] [--folder DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.browser import chromium, opened  # noqa: E402
from tests.e2e.prometheus import Prometheus  # noqa: E402
from tools.drawing import panels  # noqa: E402
from tools.drawing.demo import write_history  # noqa: E402

#: What is chosen in a dashboard's variables.
CHOSEN = {"workload": {"namespace": "shop", "workload": "cart"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--empty", action="store_true", help="a Prometheus that has nothing")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    end = time.time() // 60 * 60
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not options.empty:
            write_history(folder, end)
        with Prometheus(folder, []) as prometheus, chromium() as browser:
            for path in sorted((ROOT / "dashboards").glob("*.json")):
                variables = CHOSEN.get(path.stem, {})
                server = panels.Server(prometheus.url, end, variables)
                document = folder / f"{path.stem}.html"
                document.write_text(panels.page(json.loads(path.read_text()), server, variables))
                size = {"width": panels.WIDTH, "height": 200}
                with opened(browser, document.as_uri(), viewport=size) as page:
                    kind = "-empty" if options.empty else ""
                    picture = options.folder / f"dashboard-{path.stem}{kind}.png"
                    page.screenshot(path=picture, full_page=True)


if __name__ == "__main__":
    main()
