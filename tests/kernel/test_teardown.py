# SPDX-License-Identifier: Apache-2.0
"""Nothing of ours stays in the kernel."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.sources.libbpf import LibbpfSource

pytestmark = pytest.mark.needs("bpftool")


def _loaded() -> dict[str, set[int]]:
    found = {}
    for kind in ("prog", "map", "link"):
        shown = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, check=True)
        found[kind] = {one["id"] for one in json.loads(shown.stdout or b"[]")}
    return found


def test_after_close_no_program_map_or_link_is_left(hierarchies: Hierarchies) -> None:
    before = _loaded()
    source = LibbpfSource(hierarchies)
    source.open()
    ours = {kind: ids - before[kind] for kind, ids in _loaded().items()}
    assert all(ours.values()), ours
    source.drain()
    source.close()
    # The kernel frees them after a grace period of its own.
    deadline = time.monotonic() + 5
    while (left := {k: ids & ours[k] for k, ids in _loaded().items() if ids & ours[k]}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not left


def test_a_second_source_counts_beside_the_first(hierarchies: Hierarchies) -> None:
    first, second = LibbpfSource(hierarchies), LibbpfSource(hierarchies)
    try:
        assert first.open() == second.open()
        subprocess.run(["chown", "0", "/nonexistent"], check=False, capture_output=True)
        assert first.drain().increments
        assert second.drain().increments
    finally:
        first.close()
        second.close()
