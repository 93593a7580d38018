# SPDX-License-Identifier: Apache-2.0
"""The demo's containers: runc's, with a name, and nothing left of them at the end."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.workloads import Workload
from tests.kernel.containers import Container, make_root, remove_cgroup

CGROUPS = Path("/sys/fs/cgroup")

#: Where a user namespace's ids begin on the host, as Docker's userns-remap has it.
_FIRST_ID = 100_000


@dataclass
class NamedContainer(Container):
    """runc has no names. LXC has them in the cgroup's path, where the exporter finds them."""

    demo: str = ""
    name: str = ""
    user_namespace: bool = False

    @property
    def cgroup(self) -> str:
        return f"/{self.demo}/lxc/{self.name}"

    def _configure(self, command: Sequence[str]) -> None:
        super()._configure(command)
        config = self.folder / "config.json"
        spec = json.loads(config.read_text())
        spec["hostname"] = self.name
        if self.user_namespace:
            ids = [{"containerID": 0, "hostID": _FIRST_ID, "size": 65_536}]
            spec["linux"]["namespaces"].append({"type": "user"})
            spec["linux"] |= {"uidMappings": ids, "gidMappings": ids}
        config.write_text(json.dumps(spec))


@contextmanager
def running(folder: Path, demo: str, workloads: Sequence[Workload]) -> Iterator[None]:
    """All of them, until the end; what an earlier demo of this folder left is removed first."""
    remove_all(folder, demo)
    root = folder / "root"
    make_root(root)
    # For those in a user namespace, who own nothing of it.
    for one in (folder, root):
        one.chmod(0o755)
    ending = threading.Event()
    threads = []
    try:
        for workload in workloads:
            container = NamedContainer(
                folder / "containers" / workload.name,
                root,
                workload.granted,
                container_id=workload.name,
                demo=demo,
                name=workload.name,
                user_namespace=workload.user_namespace,
            )
            if workload.every is None:
                container.start("sh", "-c", workload.command)
            else:
                again = threading.Thread(target=_again, args=(container, workload, ending))
                again.start()
                threads.append(again)
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        remove_all(folder, demo)


def _again(container: Container, workload: Workload, ending: threading.Event) -> None:
    while not ending.is_set():
        container.run("sh", "-c", workload.command)
        ending.wait(workload.every)


def remove_all(folder: Path, demo: str) -> None:
    """Containers, by runc's own record of them; their cgroups; the files."""
    for state in folder.glob("containers/*/state"):
        bundle = state.parent
        NamedContainer(bundle, folder / "root", (), container_id=bundle.name).kill()
    for mount in (CGROUPS, *CGROUPS.iterdir()):  # runc makes them in each of v1's hierarchies
        _remove_when_empty(mount / demo)
    shutil.rmtree(folder / "containers", ignore_errors=True)
    shutil.rmtree(folder / "root", ignore_errors=True)


def _remove_when_empty(cgroup: Path) -> None:
    """Its processes may still be dying."""
    deadline = time.monotonic() + 5
    while True:
        try:
            remove_cgroup(cgroup)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
