# SPDX-License-Identifier: Apache-2.0
"""Follows a Dockerfile's steps where there is no container engine: stages are overlays over a
Debian root, RUN is a chroot in namespaces of its own.

Only the instructions and forms that our Dockerfile uses; any other is an error. The base image
debian:SUITE-slim is what debootstrap makes of the suite, without what the slim images leave out.
"""

from __future__ import annotations

import fnmatch
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any, cast

from dockerfile_parse import DockerfileParser

#: What debian:…-slim has not (debuerreotype, slimify-excludes), and what its making leaves none of.
NOT_IN_SLIM = (
    *("usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*"),
    *("usr/share/lintian/*", "usr/share/linda/*", "usr/share/groff/*"),
    *("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*.log", "var/log/apt/*"),
)
#: As every one of Debian's images has it (debuerreotype): apt keeps no packages.
CLEAN = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
EXCLUDES = """\
path-exclude /usr/share/doc/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
path-include /usr/share/doc/*/copyright
"""

#: Mounts what a step needs of the machine, for this step only: the network's names, the
#: certificates that its package registry is known by, devices.
RUN_STEP = """\
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/run"
cp /etc/ssl/certs/ca-certificates.crt "$0/run/certificates.crt"
mount --bind /etc/resolv.conf "$0/etc/resolv.conf"
exec chroot "$0" /bin/sh -c "$1"
"""


class StepError(Exception):
    """A step failed, or is not understood."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An image: directories from the lowest to the uppermost, and its configuration."""

    layers: tuple[Path, ...]
    environ: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def slim_root(folder: Path, suite: str, mirror: str) -> Path:
    """debian:SUITE-slim, made once. Raises StepError."""
    made = folder / suite
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / f".making-{suite}"
        shutil.rmtree(work, ignore_errors=True)
        _call("debootstrap", "--variant=minbase", suite, str(work), mirror)
        for pattern in NOT_IN_SLIM:
            for path in work.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        (work / "etc/dpkg/dpkg.cfg.d/docker").write_text(EXCLUDES)
        (work / "etc/apt/apt.conf.d/docker-clean").write_text(CLEAN)
        work.rename(made)
    return made


class Build:
    """Builds stages in a folder; unmounts them at close()."""

    def __init__(self, folder: Path, context: Path, bases: Path, mirror: str) -> None:
        self._folder, self._context = folder, context
        self._bases, self._mirror = bases, mirror
        self._mounted: list[Path] = []
        self.stages: dict[str, Stage] = {}

    def close(self) -> None:
        for path in reversed(self._mounted):
            subprocess.run(["umount", path], check=True)
        self._mounted.clear()

    def container(self, name: str) -> Path:
        """A root of the stage's with a layer of its own, as runtimes give containers."""
        folder = self._folder / f"{name}-container"
        return self._mount(self.stages[name].layers, folder / "root", folder / "layer")

    def build(self, dockerfile: str) -> None:
        """All stages. Raises StepError."""
        global_arguments: dict[str, str] = {}
        arguments: dict[str, str] = {}
        name, stage, top = "", Stage(()), Path()
        for kind, value in _instructions(dockerfile):
            if kind == "ARG":
                argument, _, default = value.partition("=")
                (arguments if name else global_arguments)[argument] = default
            elif kind == "FROM":
                found = re.fullmatch(r"(\S+) AS (\w+)", _filled(value, global_arguments))
                if not found:
                    raise StepError(f"FROM {value}")
                below = self.stages.get(found[1]) or self._base(found[1])
                name, arguments = found[2], {}
                upper = self._folder / name / "layer"
                top = self._mount(below.layers, self._folder / name / "root", upper)
                stage = self.stages[name] = replace(below, layers=(*below.layers, upper))
            else:
                stage = self._step(stage, top, kind, value, arguments)
                self.stages[name] = stage

    def _base(self, image: str) -> Stage:
        found = re.fullmatch(r"docker\.io/library/debian:(\w+)-slim", image)
        if not found:
            raise StepError(f"no base image {image} here")
        return Stage((slim_root(self._bases, found[1], self._mirror),))

    def _step(
        self, stage: Stage, root: Path, kind: str, value: str, arguments: dict[str, str]
    ) -> Stage:
        if kind == "RUN":
            self._run(stage, root, value)
        elif kind == "COPY":
            self._copy(root, value)
        elif kind in ("ENV", "LABEL"):
            pairs = dict(one.partition("=")[::2] for one in shlex.split(value))
            filled = {k: _filled(v, {**stage.environ, **arguments}) for k, v in pairs.items()}
            if kind == "ENV":
                return replace(stage, environ={**stage.environ, **filled})
            return replace(stage, labels={**stage.labels, **filled})
        elif kind == "ENTRYPOINT":
            return replace(stage, entrypoint=tuple(json.loads(value)))
        elif kind == "CMD":
            return replace(stage, command=tuple(json.loads(value)))
        elif kind != "EXPOSE":
            raise StepError(f"{kind} {value}")
        return stage

    def _run(self, stage: Stage, root: Path, command: str) -> None:
        # How pip and apt reach their registries is this machine's affair; nothing of it stays.
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.lower().endswith("_proxy") or name.startswith("PIP_")
        }
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            **passed,
            "PIP_CERT": "/run/certificates.crt",
            **stage.environ,
        }
        environ.pop("PIP_FIND_LINKS", None)
        alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        _call(*alone, "sh", "-ec", RUN_STEP, str(root), command, environ=environ)

    def _copy(self, root: Path, value: str) -> None:
        words = value.split()
        source = self._context
        if words[0].startswith("--from="):
            source = self._folder / words.pop(0).removeprefix("--from=") / "root"
        what, to = words
        where = root / to.lstrip("/")
        if source != self._context:
            where.parent.mkdir(parents=True, exist_ok=True)
            _call("cp", "-a", str(source / what.lstrip("/")), str(where))
        elif what == ".":
            shutil.copytree(source, where, symlinks=True, ignore=_docker_ignore(source))
        else:
            raise StepError(f"COPY {value}")

    def _mount(self, layers: tuple[Path, ...], where: Path, upper: Path) -> Path:
        work = upper.with_name("work")
        for folder in (where, upper, work):
            folder.mkdir(parents=True)
        lower = ":".join(map(str, reversed(layers)))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        _call("mount", "-t", "overlay", "-o", options, "overlay", str(where))
        self._mounted.append(where)
        return where


def _instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    # It reads bytes, whatever its types say.
    file = cast("Any", io.BytesIO(dockerfile.encode()))
    parser = DockerfileParser(fileobj=file)
    for one in parser.structure:
        if one["instruction"] != "COMMENT":
            yield one["instruction"], one["value"]


def _filled(text: str, values: dict[str, str]) -> str:
    return Template(text).safe_substitute(values)


def _docker_ignore(context: Path) -> Any:
    patterns = (context / ".dockerignore").read_text().split()

    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(context)
        return {
            name
            for name in names
            for pattern in patterns
            if (fnmatch.fnmatch(name, pattern[3:]) if pattern.startswith("**/") else None)
            or (inside / name).as_posix() == pattern
        }

    return ignored


def _call(*command: str, environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise StepError(f"{shlex.join(command)}: exit status {done.returncode}\n{said}")
