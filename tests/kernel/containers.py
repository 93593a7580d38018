# SPDX-License-Identifier: Apache-2.0
"""Real containers for tests: runc, a busybox root file system, a kubelet-like cgroup path."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
_FOLDERS = ("bin", "proc", "dev", "sys", "tmp", "etc", "home")


def make_root(root: Path, *programs: Path) -> None:
    """A root file system of busybox, with these static programs besides."""
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for program in programs:
        shutil.copy(program, root / "bin" / program.name)


@dataclass
class Container:
    """One container: ``run()`` it to its end, or ``start()``, ``exec()`` and ``kill()``."""

    folder: Path
    root: Path
    capabilities: Sequence[str]
    uid: int = 0
    mounts: Sequence[dict[str, Any]] = ()
    container_id: str = field(default_factory=lambda: secrets.token_hex(32))
    pod_uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def cgroup(self) -> str:
        return f"/kubepods/burstable/pod{self.pod_uid}/{self.container_id}"

    def run(
        self, *command: str, before_start: Callable[[], None] = lambda: None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command as the container's first process, to its end."""
        self._configure(command)
        before_start()
        return self._runc("run", "--bundle", str(self.folder), self.container_id)

    def start(self, *command: str) -> None:
        self._configure(command)
        self._runc("run", "--detach", "--bundle", str(self.folder), self.container_id, check=True)

    def create(self, *command: str) -> None:
        """All but the entrypoint: begin() runs it."""
        self._configure(command)
        self._runc("create", "--bundle", str(self.folder), self.container_id, check=True)

    def begin(self) -> None:
        self._runc("start", self.container_id, check=True)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._runc("exec", self.container_id, *command)

    def kill(self) -> None:
        if self.folder.exists():  # it was started
            self._runc("delete", "--force", self.container_id)

    def _runc(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        # Files, not pipes: a detached container keeps them open.
        with (self.folder / "output").open("w+") as output:
            done = subprocess.run(
                ["runc", "--root", str(self.folder / "state"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=60,
            )
            output.seek(0)
            text = output.read()
        assert not check or done.returncode == 0, text
        return subprocess.CompletedProcess(done.args, done.returncode, text, text)

    def _configure(self, command: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.json"
        config.unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "--bundle", str(self.folder)], check=True)
        spec = json.loads(config.read_text())
        names = [f"CAP_{name}" for name in self.capabilities]
        kept = names if self.uid == 0 else []
        spec["process"] |= {
            "terminal": False,
            "args": list(command),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": self.uid, "gid": self.uid},
            "capabilities": {"bounding": names, "effective": kept, "permitted": kept},
        }
        spec["root"] = {"path": str(self.root), "readonly": False}
        spec["mounts"] += list(self.mounts)
        spec["linux"]["cgroupsPath"] = self.cgroup
        config.write_text(json.dumps(spec))


def remove_cgroup(path: Path) -> None:
    """Remove a cgroup and what is below it, in every hierarchy that has it."""
    if path.is_dir():
        for folder, _, _ in os.walk(path, topdown=False):
            Path(folder).rmdir()
