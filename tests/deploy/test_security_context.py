# SPDX-License-Identifier: Apache-2.0
"""The exporter with exactly what the chart gives it: in a real container, with these capabilities,
this user, a read-only root, no new privileges, its own namespaces, and the node's cgroups."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cap_exporter.cgroups.hierarchies import discover
from tests.kernel.conftest import run_in_cgroup

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/cap-exporter"

pytestmark = [pytest.mark.kernel, pytest.mark.needs("helm", "runc", "clang", "nsenter")]

#: Of the machine, read-only: Python and libraries.
SHARED = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc")


def chart_container() -> dict[str, Any]:
    done = subprocess.run(
        ["helm", "template", "caps", CHART], capture_output=True, text=True, check=True
    )
    for one in yaml.safe_load_all(done.stdout):
        if one and one["kind"] == "DaemonSet":
            container: dict[str, Any] = one["spec"]["template"]["spec"]["containers"][0]
            return container
    raise AssertionError(done.stdout)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A container's id, and its output."""
    container = chart_container()
    context = container["securityContext"]
    root = tmp_path / "rootfs"
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
    ]
    shared = {Path(path).resolve() for path in SHARED} | {ROOT, Path(sys.base_prefix)}
    for path in sorted(shared):
        (root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        options = ["rbind", "ro"]
        mounts.append({"destination": str(path), "source": str(path), "options": options})
    for link in map(Path, SHARED):
        if link.is_symlink():
            (root / link.name).symlink_to(link.resolve())
    for folder in ("proc", "dev", "sys", "host/cgroup"):
        (root / folder).mkdir(parents=True)
    # As the kubelet mounts a hostPath: with what is mounted below.
    cgroup = {"destination": "/host/cgroup", "source": "/sys/fs/cgroup"}
    mounts.append({**cgroup, "options": ["rbind", "ro"]})
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/host/cgroup"}
    subprocess.run(["runc", "spec", "--bundle", tmp_path], check=True)
    spec = json.loads((tmp_path / "config.json").read_text())
    names = [f"CAP_{name}" for name in context["capabilities"]["add"]]
    kinds = ("bounding", "permitted", "effective")
    spec["process"] |= {
        "terminal": False,
        "args": [str(Path(sys.executable).parent / "cap-exporter"), *container["args"]],
        "env": ["NODE_NAME=n", "PYTHONDONTWRITEBYTECODE=1", "CAP_EXPORTER_DRAIN_INTERVAL=200ms"],
        "cwd": "/",
        "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
        "capabilities": dict.fromkeys(kinds, names),
        "noNewPrivileges": not context["allowPrivilegeEscalation"],
        # A pod has none of runc's examples.
        "rlimits": [],
    }
    spec["root"] = {"path": str(root), "readonly": context["readOnlyRootFilesystem"]}
    spec["mounts"] = mounts
    spec["linux"]["namespaces"] = [
        {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
    ]
    spec["linux"]["maskedPaths"] = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys/firmware",
    ]
    identity = f"cap-exporter-test-{tmp_path.name}"
    # Where its own counts go to: away from the paths that are looked at.
    spec["linux"]["cgroupsPath"] = f"/{identity}"
    (tmp_path / "config.json").write_text(json.dumps(spec))
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            ["runc", "--root", tmp_path / "state", "run", "--bundle", tmp_path, identity],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    deadline = time.monotonic() + 30
    while "metrics on port" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    state = json.loads(
        subprocess.run(
            ["runc", "--root", tmp_path / "state", "state", identity],
            capture_output=True,
            check=True,
        ).stdout
    )
    try:
        yield str(state["pid"]), output
    finally:
        kill: list[str | Path] = [
            "runc",
            "--root",
            tmp_path / "state",
            "delete",
            "--force",
            identity,
        ]
        subprocess.run(kill, check=False, capture_output=True)
        process.wait(20)


def test_it_counts_with_exactly_what_the_chart_gives_it(
    exporter: tuple[str, Path], fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    pid, output = exporter
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"NoNewPrivs:\s*1", status)
    directory, _ = fresh_cgroup(
        discover().counted[0].controller, f"kubepods/pod{'c' * 32}/{'d' * 64}"
    )
    run_in_cgroup(directory, checks, "acct", "33")
    wanted = 'capability="CAP_SYS_PACCT",container="dddddddddddd"'

    def page() -> str:
        # Its network namespace is its own.
        get = (
            "import urllib.request as u; "
            "print(u.urlopen('http://127.0.0.1:10838/metrics').read().decode())"
        )
        done = subprocess.run(
            ["nsenter", "--target", pid, "--net", sys.executable, "-c", get],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    deadline = time.monotonic() + 10
    while wanted not in (text := page()):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    (line,) = [
        one for one in text.splitlines() if wanted in one and one.startswith("capability_ch")
    ]
    assert line.endswith(" 33.0")
    assert 'verdict="denied"' in line
    # It could tell probing from meaning, and name cgroups: nothing is missing.
    assert "WARNING" not in output.read_text()
    assert 'reason="unclassified"' not in text
