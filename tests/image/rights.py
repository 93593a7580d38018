# SPDX-License-Identifier: Apache-2.0
"""The image's exporter with the chart's rights, and with each of them taken away. test_kernels.py
runs this inside other kernels; IMAGE is the root of the image there."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import NotStarted, chart_container, started

ROOT = Path(os.environ.get("IMAGE", "/nonexistent"))
RELEASE = tuple(map(int, platform.release().split(".")[:2]))

#: Without these it does not start.
NEEDED = ("BPF", "PERFMON", "SYS_RESOURCE")

#: With these it knows more: symbol addresses tell the class of a check where it is attached to the
#: tracepoint (elsewhere an argument tells it), and cgroups that began unseen are opened by number.
USEFUL = ("SYSLOG", "DAC_READ_SEARCH")


def container() -> dict[str, Any]:
    return chart_container(f"kernel.before511={str(RELEASE < (5, 11)).lower()}")


def run(folder: Path, one: dict[str, Any], runtime: str = "runc") -> tuple[str, str]:
    """What it said, and its page."""
    environ = {"PATH": "/opt/cap-exporter/bin:/usr/bin:/bin"}
    with started(
        folder,
        one,
        ROOT,
        command=("cap-exporter",),
        environ=environ,
        runtime=runtime,
        seconds=120,
    ) as running:
        page = running.eventually("capability_checks_total{", seconds=60)
        return running.output.read_text(), page


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_what_the_chart_gives_is_enough(runtime: str, tmp_path: Path) -> None:
    said, page = run(tmp_path, container(), runtime)
    print(said)
    # What preemption does to counting is no matter of rights (docs/kernels.md).
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    assert all("preemption" in line for line in warnings)
    assert "cap_exporter_source_info{" in page
    assert 'reason="unclassified"' not in page


def without(name: str) -> dict[str, Any]:
    """The chart's container but for this capability."""
    one = container()
    given = one["securityContext"]["capabilities"]["add"]
    assert (name in given) == (name != "SYS_RESOURCE" or RELEASE < (5, 11))
    if name in given:
        given.remove(name)
    return one


@pytest.mark.parametrize("name", NEEDED)
def test_it_does_not_start_without(name: str, tmp_path: Path) -> None:
    one = without(name)
    if one != container():
        with pytest.raises(NotStarted) as refused:
            run(tmp_path, one)
        print(str(refused.value)[-600:])


@pytest.mark.parametrize("name", USEFUL)
def test_it_knows_less_without(name: str, tmp_path: Path) -> None:
    said, page = run(tmp_path, without(name))
    hidden = "symbol addresses are hidden" in said
    assert hidden == (name == "SYSLOG" and 'attach="tp_btf"' in page)
