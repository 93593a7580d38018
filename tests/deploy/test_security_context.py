# SPDX-License-Identifier: Apache-2.0
"""The exporter with exactly what the chart gives it: in a real container, with these capabilities,
this user, a read-only root, no new privileges, its own namespaces, and the node's cgroups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import discover
from tests.deploy.chart import NotStarted, Running, chart_container, machine_root, started
from tests.kernel.conftest import run_in_cgroup

pytestmark = [pytest.mark.kernel, pytest.mark.needs("helm", "runc", "clang", "nsenter")]


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Running]:
    root, mounts = machine_root(tmp_path)
    with started(tmp_path, chart_container(), root, mounts) as running:
        yield running


def test_it_counts_with_exactly_what_the_chart_gives_it(
    exporter: Running, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    status = Path(f"/proc/{exporter.pid}/status").read_text()
    assert re.search(r"NoNewPrivs:\s*1", status)
    directory, _ = fresh_cgroup(
        discover().counted[0].controller, f"kubepods/pod{'c' * 32}/{'d' * 64}"
    )
    run_in_cgroup(directory, checks, "acct", "33")
    wanted = 'capability="CAP_SYS_PACCT",container="dddddddddddd"'
    text = exporter.eventually(wanted)
    (line,) = [
        one for one in text.splitlines() if wanted in one and one.startswith("capability_ch")
    ]
    assert line.endswith(" 33.0")
    assert 'verdict="denied"' in line
    # It could tell probing from meaning, and name cgroups: nothing is missing.
    assert "WARNING" not in exporter.output.read_text()
    assert 'reason="unclassified"' not in text


def test_a_seccomp_profile_that_refuses_bpf_is_named(tmp_path: Path) -> None:
    """As older Podman and CRI-O have it by default."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    root, mounts = machine_root(tmp_path)
    with (
        pytest.raises(NotStarted, match="seccomp"),
        started(tmp_path, chart_container(), root, mounts, seccomp=profile),
    ):
        pass
