# SPDX-License-Identifier: Apache-2.0
"""The exporter with exactly what the chart gives it: in a real container, with these capabilities,
this user, a read-only root, no new privileges, its own namespaces, and the node's cgroups."""

from __future__ import annotations

import re
import subprocess
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


def test_counts_go_on_in_the_next_pod(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    node = tmp_path / "node-bpf"
    node.mkdir()
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=700", "bpf", node], check=True)
    try:
        container = chart_container("pin.enabled=true")
        root, mounts = machine_root(tmp_path)
        mounts.append({"destination": "/sys/fs/bpf", "source": str(node), "options": ["rbind"]})
        directory, _ = fresh_cgroup(
            discover().counted[0].controller, f"kubepods/pod{'a' * 32}/{'b' * 64}"
        )
        wanted = 'capability="CAP_SYS_PACCT",container="bbbbbbbbbbbb"'
        for pod, total in (("one", 30), ("two", 90)):
            with started(tmp_path / pod, container, root, mounts) as running:
                run_in_cgroup(directory, checks, "acct", "30")
                text = running.eventually(f'verdict="denied"}} {total}.0')
                assert wanted in text
                assert "WARNING" not in running.output.read_text()
            run_in_cgroup(directory, checks, "acct", "30")
    finally:
        subprocess.run(["umount", "--lazy", node], check=True)


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
