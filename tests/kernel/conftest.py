# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests: an attached source, what it counted by path, real containers."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cap_exporter.capabilities import name_of
from cap_exporter.cgroups.hierarchies import Hierarchies, discover
from cap_exporter.cgroups.tree import CgroupTree
from cap_exporter.model import CgroupKey, CheckClass, CheckKey, Drain, Granted, UserNamespace
from cap_exporter.sources.bcc import BccSource
from cap_exporter.sources.libbpf import LibbpfSource
from tests.kernel.containers import Container, make_root

_numbers = itertools.count()


class Counting:
    """An attached source, and everything it has counted so far by cgroup path."""

    def __init__(self, hierarchies: Hierarchies, source: LibbpfSource | BccSource) -> None:
        self.source = source
        self.info = source.open()
        self.tree = CgroupTree(hierarchies)
        self.tree.scan()
        source.introduce(self.tree.items())
        self.counts: Counter[CheckKey] = Counter()
        self.paths: dict[CgroupKey, str] = {}
        self.entered: dict[str, Granted] = {}
        self.held: dict[str, Granted] = {}
        self.last = Drain(time=0)

    def drain(self, *, release: bool = False) -> None:
        self.last = self.source.drain()
        gone = self.tree.apply(self.last.cgroup_events)
        for key, count in self.last.increments:
            self.counts[key] += count
            self.paths.setdefault(key.cgroup, self.tree.path(key.cgroup) or "?")
        for known, news in ((self.entered, self.last.entered), (self.held, self.last.held)):
            known |= {self.tree.path(cgroup) or "?": held for cgroup, held in news.items()}
        if release:
            self.source.release(gone)

    def under(self, path: str) -> dict[CheckKey, int]:
        """What was counted in this cgroup and below it."""
        return {
            key: count
            for key, count in self.counts.items()
            if f"{self.paths[key.cgroup]}/".startswith(f"{path}/")
        }

    def profile(self, path: str) -> tuple[set[str], set[str]]:
        """Names of the capabilities that were used and denied: only what means something, and
        only over the host's user namespace."""
        used: set[str] = set()
        denied: set[str] = set()
        for key in self.under(path):
            meaningful = key.check_class is CheckClass.MEANINGFUL
            if meaningful and key.user_namespace is UserNamespace.INIT:
                (used if key.verdict == "allowed" else denied).add(name_of(key.capability))
        return used, denied

    def classes(self, path: str) -> set[str]:
        return {str(key.check_class) for key in self.under(path)}


@pytest.fixture
def hierarchies() -> Hierarchies:
    return discover()


@pytest.fixture
def counting(hierarchies: Hierarchies) -> Iterator[Counting]:
    """The way to attach can be forced from outside, to run these tests through each."""
    attach = os.environ.get("CAP_EXPORTER_ATTACH")
    source = LibbpfSource(hierarchies, attach=None if attach in (None, "auto") else attach)
    try:
        yield Counting(hierarchies, source)
    finally:
        source.close()


@pytest.fixture(scope="session")
def checks() -> Iterator[Path]:
    """The helper program checks.c, static, so that it runs in a container too, and where an
    ordinary user can reach it (pytest's own folders are closed)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = Path(folder) / "checks"
        program.parent.chmod(0o755)
        source = Path(__file__).with_name("checks.c")
        subprocess.run(["clang", "-O2", "-static", "-o", program, source], check=True)
        yield program


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory, checks: Path) -> Path:
    root = tmp_path_factory.mktemp("root") / "rootfs"
    make_root(root, checks)
    return root


@pytest.fixture
def container(tmp_path: Path, busybox_root: Path) -> Iterator[Callable[..., Container]]:
    """Makes containers; what is left of them is removed at the end."""
    made: list[Container] = []

    def make(
        *capabilities: str, root: Path = busybox_root, uid: int = 0, **more: object
    ) -> Container:
        folder = tmp_path / f"bundle{len(made)}"
        one = Container(folder, root, capabilities, uid, **more)  # type: ignore[arg-type]
        made.append(one)
        return one

    yield make
    for one in made:
        one.kill()
        for hierarchy in discover().counted:
            pod = Path(f"{hierarchy.mount}{one.cgroup}").parent
            with suppress(OSError):
                pod.rmdir()


@pytest.fixture
def fresh_cgroup() -> Iterator[Callable[..., tuple[Path, str]]]:
    """Makes a cgroup in one hierarchy ("" is v2): its directory and its path."""
    made: list[Path] = []
    counted = {h.controller: h.mount for h in discover().counted}

    def make(controller: str = "", name: str = "") -> tuple[Path, str]:
        mount = counted.get(controller)
        if mount is None:
            pytest.skip(f"there is no {controller or 'v2'} hierarchy on this host")
        path = f"/{name or f'cap-exporter-test-{os.getpid()}-{next(_numbers)}'}"
        directory = Path(f"{mount}{path}")
        missing = []
        for folder in (directory, *directory.parents):
            if folder.exists():
                break
            missing.append(folder)
        directory.mkdir(parents=True)
        made.extend(missing)
        return directory, path

    yield make
    for directory in made:
        for _ in range(100):  # its processes may still be dying
            try:
                directory.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)


def start_in_cgroup(
    directory: Path,
    *command: str | Path,
    uid: int = 65534,
    capabilities: str = "",
    output: int | None = None,
) -> subprocess.Popen[bytes]:
    """The command, as an ordinary user, waiting in the cgroup for go(). The user is changed before
    the cgroup is entered, so that nothing else runs inside."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    if capabilities:
        user += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"]
    waiting = [*user, "--", "sh", "-c", 'read x; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        waiting,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        # Only folders that anybody may look into.
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    _until_it_sleeps(process.pid)
    (directory / "cgroup.procs").write_text(str(process.pid))
    return process


def go(process: subprocess.Popen[bytes]) -> None:
    """Let it execute its command."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()


def run_in_cgroup(
    directory: Path, *command: str | Path, uid: int = 65534, capabilities: str = ""
) -> int:
    """The command to its end, its output thrown away; returns its status."""
    process = start_in_cgroup(
        directory, *command, uid=uid, capabilities=capabilities, output=subprocess.DEVNULL
    )
    go(process)
    return process.wait(timeout=30)


def _until_it_sleeps(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # setpriv's, then sh's
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if command.startswith(b"sh\0") and state == "S":
            return
        time.sleep(0.001)
