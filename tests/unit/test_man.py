# SPDX-License-Identifier: Apache-2.0
"""man can show the manual page. (That it is up to date: test_docs.py)"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cap_exporter.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "man/cap-exporter.1"


@pytest.mark.needs("groff")
def test_groff_has_nothing_to_say_against_it_and_shows_what_is_typed() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=80n", str(PAGE)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"cap-exporter {name} [OPTIONS]" in done.stdout
    # Dashes stay dashes, and nothing that is typed is broken or hyphenated.
    assert "--otlp-endpoint TEXT" in done.stdout
    assert "CAP_EXPORTER_PAGE_WEB_CONFIG" in done.stdout
    assert ". <(cap-exporter completion bash)" in done.stdout
