# SPDX-License-Identifier: Apache-2.0
"""What `cap-exporter doctor` says on each kernel, on cgroup v2. Runs inside each.

A changed text is made golden by running this with GOLDEN=print and storing what it prints.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import Mode, discover

pytestmark = pytest.mark.kernel

COMMAND = Path(sys.executable).parent / "cap-exporter"
GOLDEN = Path(__file__).resolve().parents[2] / "data" / "doctor"


def golden_name(release: str) -> str:
    """By what kernels are called in tests/vm/kernels.py."""
    major, minor, *_ = release.split(".")
    return f"linux-{major}.txt" if int(major) > 6 else f"linux-{major}.{minor}.txt"


def comparable(text: str) -> str:
    """Without what is another on each run: the release, times, counts of loads."""
    text = text.replace(platform.release(), "RELEASE")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"up for .*", "up for a while", text)
    return re.sub(r"libbpf: v[\d.]+", "libbpf: VERSION", text)


def test_the_findings_are_those_of_this_kernel() -> None:
    path = GOLDEN / golden_name(platform.release())
    if discover().mode is not Mode.V2 or " preempt=" in Path("/proc/cmdline").read_text():
        pytest.skip("the golden files are of cgroup v2 and of preemption as the kernel was built")
    plain = {name: text for name, text in os.environ.items() if "CAP_EXPORTER" not in name}
    done = subprocess.run(
        [COMMAND, "doctor"],
        capture_output=True,
        text=True,
        env={**plain, "COLUMNS": "80", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    text = comparable(done.stdout)
    if os.environ.get("GOLDEN") == "print":
        sys.__stdout__.write(f"GOLDEN-BEGIN\n{text}GOLDEN-END\n")  # type: ignore[union-attr]
        return
    assert path.exists(), f"make {path.name} of what GOLDEN=print gives:\n{text}"
    assert done.returncode == 0, done.stderr
    assert text == path.read_text(encoding="utf-8")
