# SPDX-License-Identifier: Apache-2.0
"""The exporter in a real container, with exactly the rights that the chart gives it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/cap-exporter"

#: Of the machine, read-only: Python and libraries.
SHARED = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc")

Mount = dict[str, Any]


def chart_container(*values: str) -> dict[str, Any]:
    """The DaemonSet's container. values: as helm's --set has them."""
    done = subprocess.run(
        ["helm", "template", "caps", CHART, *(f"--set={value}" for value in values)],
        capture_output=True,
        text=True,
        check=True,
    )
    for one in yaml.safe_load_all(done.stdout):
        if one and one["kind"] == "DaemonSet":
            container: dict[str, Any] = one["spec"]["template"]["spec"]["containers"][0]
            return container
    raise AssertionError(done.stdout)


def seccomp_of(profile: Mapping[str, Any], capabilities: Sequence[str]) -> dict[str, Any]:
    """A runtime's default profile, in Docker's format, as the runtime makes an OCI one of it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    held = set(capabilities)
    calls = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if machine not in includes.get("arches", [machine]):
            continue
        if not set(includes.get("caps", ())) <= held or set(excludes.get("caps", ())) & held:
            continue
        call = {"names": rule["names"], "action": rule["action"]}
        if rule.get("args"):
            call["args"] = rule["args"]
        if "errnoRet" in rule:
            call["errnoRet"] = rule["errnoRet"]
        calls.append(call)
    kind = {"amd64": "X86_64", "arm64": "AARCH64"}[machine]
    return {
        "defaultAction": profile["defaultAction"],
        "architectures": [f"SCMP_ARCH_{kind}"],
        "syscalls": calls,
    }


@dataclass(frozen=True, slots=True)
class Running:
    pid: int
    output: Path

    def page(self) -> str:
        """/metrics, fetched in its network namespace."""
        get = (
            "import urllib.request as u; "
            "print(u.urlopen('http://127.0.0.1:10838/metrics').read().decode())"
        )
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", sys.executable, "-c", get],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def eventually(self, wanted: str, seconds: float = 15) -> str:
        """The page, once it has this text."""
        deadline = time.monotonic() + seconds
        while wanted not in (text := self.page()):
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)
        return text


class NotStarted(Exception):
    """It ended before it was ready. The text is what it said."""


def machine_root(folder: Path) -> tuple[Path, list[Mount]]:
    """An empty root, and mounts that put this machine's programs and this repository into it."""
    root = folder / "rootfs"
    mounts = []
    shared = {Path(path).resolve() for path in SHARED} | {ROOT, Path(sys.base_prefix)}
    for path in sorted(shared):
        (root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        mounts.append({"destination": str(path), "source": str(path), "options": ["rbind", "ro"]})
    for link in map(Path, SHARED):
        if link.is_symlink():
            (root / link.name).symlink_to(link.resolve())
    for name in ("proc", "dev", "sys", "host/cgroup"):
        (root / name).mkdir(parents=True)
    return root, mounts


@contextmanager
def started(
    folder: Path,
    container: Mapping[str, Any],
    root: Path,
    mounts: Sequence[Mount] = (),
    *,
    command: Sequence[str] = (str(Path(sys.executable).parent / "cap-exporter"),),
    environ: Mapping[str, str] | None = None,
    seccomp: Mapping[str, Any] | None = None,
    runtime: str = "runc",
    seconds: float = 30,
) -> Iterator[Running]:
    """The exporter under a container's rights, with the chart's arguments behind the command.

    seccomp: a runtime's default profile in Docker's format; None: no filter. Raises NotStarted.
    """
    context = container["securityContext"]
    # The chart's own mount, as the kubelet makes a hostPath: with what is mounted below.
    wanted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert wanted - {mount["destination"] for mount in mounts} == {"/host/cgroup"}
    folder.mkdir(exist_ok=True)
    subprocess.run(["runc", "spec", "--bundle", folder], check=True)
    spec = json.loads((folder / "config.json").read_text())
    names = [f"CAP_{name}" for name in context["capabilities"]["add"]]
    environ = {
        "NODE_NAME": "n",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CAP_EXPORTER_DRAIN_INTERVAL": "200ms",
        **(environ or {}),
    }
    spec["process"] |= {
        "terminal": False,
        "args": [*command, *container["args"]],
        "env": [f"{name}={value}" for name, value in environ.items()],
        "cwd": "/",
        "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
        "capabilities": dict.fromkeys(("bounding", "permitted", "effective"), names),
        "noNewPrivileges": not context["allowPrivilegeEscalation"],
        # A pod has none of runc's examples.
        "rlimits": [],
    }
    spec["root"] = {"path": str(root), "readonly": context["readOnlyRootFilesystem"]}
    spec["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        *mounts,
        {
            "destination": "/host/cgroup",
            "source": "/sys/fs/cgroup",
            "options": ["rbind", "ro"],
        },
    ]
    identity = f"cap-exporter-test-{folder.name}"
    spec["linux"] |= {
        "namespaces": [
            {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
        ],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        # Where its own counts go to: away from the paths that are looked at.
        "cgroupsPath": f"/{identity}",
    }
    if seccomp is not None:
        spec["linux"]["seccomp"] = seccomp_of(seccomp, names)
    (folder / "config.json").write_text(json.dumps(spec))
    output = folder / "output"
    state = [runtime, "--root", str(folder / "state")]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*state, "run", "--bundle", folder, identity],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + seconds
        while "metrics on port" not in output.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(output.read_text())
            time.sleep(0.05)
        told = subprocess.run([*state, "state", identity], capture_output=True, check=True)
        yield Running(int(json.loads(told.stdout)["pid"]), output)
    finally:
        kill = [*state, "delete", "--force", identity]
        subprocess.run(kill, check=False, capture_output=True)
        process.wait(20)
