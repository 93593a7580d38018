# SPDX-License-Identifier: Apache-2.0
"""Containers and cgroups as in the kernel tests; an API server that names pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import busybox_root, checks, container, fresh_cgroup
from tests.kube.server import KubeServer

__all__ = ["busybox_root", "checks", "container", "fresh_cgroup"]


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[KubeServer]:
    folder = tmp_path / "kube"
    folder.mkdir()
    one = KubeServer(folder)
    try:
        yield one
    finally:
        one.close()
