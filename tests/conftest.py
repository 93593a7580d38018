# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on: marks by folder, and a reason where a test cannot run here."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Every test in these folders has the mark of the same name.
MARKED_FOLDERS = ("kernel", "vm")

#: What loading and attaching takes (include/uapi/linux/capability.h): SYS_ADMIN, PERFMON, BPF.
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


def pytest_configure() -> None:
    """Commands that tools/unpack-prometheus.sh brought are found like installed ones."""
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{ROOT / '.tools' / 'bin'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder in MARKED_FOLDERS:
            if ROOT / "tests" / folder in item.path.parents:
                item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and (reason := why_no_bpf(Path("/proc/self/status"))):
        pytest.skip(reason)
    missing = sorted(
        command
        for mark in item.iter_markers("needs")
        for command in mark.args
        if shutil.which(command) is None
    )
    if missing:
        reason = f"{', '.join(missing)} not found; `make test` installs what the tests need"
        # There a skip would go unseen for ever.
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def why_no_bpf(status: Path) -> str | None:
    """Why this process may not load BPF programs (proc(5), CapEff); None: it may."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    assert effective, f"no CapEff in {status}"
    held = int(effective[1], 16)
    if held >> CAP_SYS_ADMIN & 1 or (held >> CAP_BPF & 1 and held >> CAP_PERFMON & 1):
        return None
    return "loading BPF programs takes root (or CAP_BPF and CAP_PERFMON)"
