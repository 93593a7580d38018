# SPDX-License-Identifier: Apache-2.0
"""The rights that the chart gives are enough on this kernel. Runs inside each kernel: in a real
container, this machine's Python and libraries in it. (tests/image does the same from the image.)"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from tests.deploy.chart import chart_container, machine_root, started

pytestmark = [pytest.mark.kernel, pytest.mark.needs("helm", "runc", "nsenter")]

RELEASE = tuple(map(int, platform.release().split(".")[:2]))


@pytest.mark.timeout(300)
def test_what_the_chart_gives_is_enough(tmp_path: Path) -> None:
    one = chart_container(f"kernel.before511={str(RELEASE < (5, 11)).lower()}")
    root, mounts = machine_root(tmp_path)
    with started(tmp_path, one, root, mounts, seconds=120) as running:
        page = running.eventually("capability_checks_total{", seconds=60)
        assert "WARNING" not in running.output.read_text()
    assert re.search(r"^cap_exporter_source_info\{", page, re.MULTILINE)
    assert 'reason="unclassified"' not in page
