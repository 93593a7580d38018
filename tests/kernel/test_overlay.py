# SPDX-License-Identifier: Apache-2.0
"""What overlayfs does under its mounter's credentials is not the container's doing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Counting
from tests.kernel.containers import Container

pytestmark = pytest.mark.needs("runc", "clang")

USER = 1000


@pytest.fixture
def overlay(tmp_path: Path, busybox_root: Path) -> Iterator[Path]:
    """The busybox root as an overlay; its own file lies in the lower layer, and is the user's."""
    # A file system of its own: overlayfs can't be stacked on every one that /tmp may be on.
    layers = tmp_path / "layers"
    layers.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", layers], check=True)
    own, upper, work, merged = (layers / n for n in ("own", "upper", "work", "merged"))
    for folder in (own, upper, work, merged):
        folder.mkdir()
    home = own / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    for name in ("read", "append", "remove"):
        (home / name).write_text("mine\n")
        os.chown(home / name, USER, USER)
    options = f"lowerdir={own}:{busybox_root},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    yield merged
    subprocess.run(["umount", merged], check=True)
    subprocess.run(["umount", layers], check=True)


def test_an_unprivileged_user_s_own_files_on_overlayfs_add_nothing_to_the_profile(
    counting: Counting, container: Callable[..., Container], overlay: Path
) -> None:
    one = container("AUDIT_WRITE", "KILL", "NET_BIND_SERVICE", root=overlay, uid=USER)
    done = one.run(
        "sh", "-c", "cat /home/read && echo more >> /home/append && rm /home/remove && echo done"
    )
    counting.drain()
    assert done.stdout.split() == ["mine", "done"]
    assert counting.profile(one.cgroup) == (set(), set())
    override = sum(
        n for key, n in counting.under(one.cgroup).items() if key.check_class == "override"
    )
    assert override > 0
