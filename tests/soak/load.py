# SPDX-License-Identifier: Apache-2.0
"""Pods, units and floods of cgroups that make known numbers of checks."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cap_exporter.cgroups.hierarchies import discover
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container, remove_cgroup
from tests.kube.objects import pod
from tests.kube.server import KubeServer
from tests.soak.expected import Expected, Key

PACCT = "CAP_SYS_PACCT"
#: Of the floods, nobody else's.
BOOT = "CAP_SYS_BOOT"

_UNABLE = ("setpriv", "--bounding-set=-sys_boot")

#: The container whose cgroups come and go.
FLOODED = "f10d" * 16

#: Pods that the API server has at a time.
_MOST_PODS = 40


@dataclass
class Load:
    """Threads that go on until stop()."""

    folder: Path
    root: Path
    checks: Path
    kube: KubeServer
    expected: Expected
    seed: int
    restarts: int = 0
    cgroups: int = 0
    """Below a container that lasts."""
    containers: set[str] = field(default_factory=set)
    """With one check each, in no pod."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        (self.folder / "bundles").mkdir()
        parts: list[Callable[[random.Random], None]] = [self._pods, self._flood]
        parts += [partial(self._unit, f"soak-{number}.service") for number in range(2)]
        for number, part in enumerate(parts):
            thread = threading.Thread(target=self._run, args=(part, self.seed + number))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        remove_cgroup(v2() / "docker" / FLOODED)

    def _run(self, part: Callable[[random.Random], None], seed: int) -> None:
        try:
            part(random.Random(seed))
        except Exception as error:
            self.expected.error(f"the load itself failed: {error!r}")

    def _pods(self, choose: random.Random) -> None:
        number = 0
        while not self._stop.wait(choose.uniform(0, 0.5)):
            if len(self.kube.pods) < _MOST_PODS:
                number += 1
                self._pod(choose, f"soak-{number}")

    def _pod(self, choose: random.Random, name: str) -> None:
        """Known to the API server before or after it has run; some start a second time."""
        key = Key("soak", name, "app", PACCT)
        folder = self.folder / "bundles" / name
        one = Container(folder, self.root, ("NET_RAW",))
        lives = 2 if choose.random() < 0.2 else 1
        for life in range(lives):
            if life:
                self.restarts += 1
                one = Container(folder, self.root, ("NET_RAW",), pod_uid=one.pod_uid)
            told_first = choose.random() < 0.7
            told = pod(name, "soak", {"app": one.container_id}, uid=one.pod_uid)
            if told_first:
                self.kube.apply(told)
            checks = choose.choice((1, 7, choose.randrange(1, 3000)))
            self.expected.begin(key, checks)
            done = one.run("checks", "acct", str(checks))
            assert done.returncode == 0, done.stdout
            if not told_first:
                self.kube.apply(told)
        self.expected.done(key, partial(self.kube.delete, one.pod_uid))
        shutil.rmtree(folder)
        for hierarchy in discover().counted:
            remove_cgroup(Path(f"{hierarchy.mount}{one.cgroup}").parent)

    def _unit(self, name: str, choose: random.Random) -> None:
        """Its cgroup goes and comes again with another number."""
        directory = v2() / "system.slice" / name
        directory.mkdir(parents=True, exist_ok=True)
        key = Key("", "", name, PACCT)
        while not self._stop.wait(choose.uniform(0, 1)):
            checks = choose.randrange(1, 5000)
            self.expected.begin(key, checks)
            run_in_cgroup(directory, self.checks, "acct", str(checks))
            self.expected.done(key)
            if choose.random() < 0.2:
                remove_soon(directory)
                directory.mkdir()
        self.expected.done(key, lambda: None)
        remove_soon(directory)

    def _flood(self, choose: random.Random) -> None:
        """Of cgroups below one container, and of containers; of one check each."""
        containers = v2() / "docker"
        one = containers / FLOODED
        one.mkdir(parents=True, exist_ok=True)
        key = Key("", "", FLOODED[:12], BOOT)
        while not self._stop.wait(choose.uniform(0, 1)):
            # Fewer than make the ring full while the exporter is stopped: a container that comes
            # and goes unseen has no name.
            times = choose.randrange(1, 60)
            self.expected.begin(key, times)
            self._short_lives(one, times)
            self.expected.done(key)
            self.cgroups += times
            names = self._short_lives(containers, times)
            self.containers |= names
        self.expected.done(key, lambda: None)

    def _short_lives(self, folder: Path, times: int) -> set[str]:
        """Their names, as far as they are published."""
        command: list[str | Path] = [*_UNABLE, self.checks, "churn", folder, str(times)]
        with subprocess.Popen(command) as process:
            assert process.wait(60) == 0
        return {f"{number:05x}{process.pid:07x}" for number in range(times)}


def v2() -> Path:
    return next(h.mount for h in discover().counted if h.mount and not h.controller)


def remove_soon(directory: Path) -> None:
    """Its processes may still be dying."""
    for _ in range(500):
        try:
            directory.rmdir()
            return
        except OSError:
            time.sleep(0.01)
    directory.rmdir()
