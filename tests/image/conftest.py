# SPDX-License-Identifier: Apache-2.0
"""The images, made once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.image.dockerfile import Build, Stage
from tests.kernel.conftest import checks, fresh_cgroup
from tests.vm.archive import Archive, unpack
from tests.vm.kernels import default_cache

__all__ = ["checks", "fresh_cgroup"]

ROOT = Path(__file__).resolve().parent.parent.parent
SUITE = "trixie"
TARGETS = ("small", "bcc")


class Images(NamedTuple):
    stages: Mapping[str, Stage]
    roots: Mapping[str, Path]
    profile: dict[str, Any]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("image")
    archive = Archive(folder / "apt", (SUITE,), "amd64")
    archive.update()
    # Docker's profile; containerd's is made after it.
    for package in archive.download(["golang-github-docker-docker-dev"], folder / "packages"):
        unpack(package, folder / "docker")
    (profile,) = (folder / "docker").rglob("profiles/seccomp/default.json")
    mirror = (folder / "apt/sources.list").read_text().split()[-3]
    build = Build(folder, ROOT, default_cache().parent / "images", mirror)
    try:
        build.build((ROOT / "deploy/docker/Dockerfile").read_text())
        roots = {name: build.container(name) for name in TARGETS}
        yield Images(build.stages, roots, json.loads(profile.read_text()))
    finally:
        build.close()
