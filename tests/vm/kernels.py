# SPDX-License-Identifier: Apache-2.0
"""The kernels that the tests boot: which there are, and how they get here.

Unpacked, not installed, into a cache outside the repository, with the headers that BCC compiles
against. A kernel that is there already is used as it is; ``--update`` fetches a newer one.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.archive import Archive, ArchiveError, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Modules of hardware that no virtual machine here has: three quarters of the space.
LEFT_OUT = (
    *(
        f"*/modules/*/kernel/{directory}"
        for directory in (
            *("sound", "drivers/gpu", "drivers/media", "drivers/net/wireless"),
            *("drivers/net/ethernet", "drivers/infiniband", "drivers/staging", "drivers/iio"),
            *("drivers/scsi", "drivers/usb", "drivers/hwmon", "drivers/platform"),
            *("drivers/input", "drivers/mfd", "drivers/mtd"),
        )
    ),
    *("./usr/share/doc", "*/vdso/*.debug"),
)

#: What of a kernel's dependencies is the kernel: image and modules (apart since 6.19) and headers.
KERNEL_PACKAGES = re.compile(r"linux-(image|binary|modules|base|headers|kbuild)-(?!.*-unsigned$).*")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of Debian's, by the suites that have it."""

    name: str
    series: str
    """What its version starts with."""
    suites: tuple[str, ...]
    variant: str = ""
    """In front of the architecture in the package's name, e.g. ``rt-``."""
    ways: tuple[str, ...] = ("fexit", "kprobe")
    """The ways to attach that it must offer; each is tried by itself."""
    dynamic_preemption: bool = True
    """Whether ``preempt=`` on its command line chooses how far it preempts itself (since 5.12)."""

    def ways_on(self, architecture: str) -> tuple[str, ...]:
        """arm64 has no fexit of kernel functions before 6.4 (commit 2aa6ac03516d)."""
        late = architecture == "arm64" and self.series in {"5.10.", "6.1."}
        return tuple(way for way in self.ways if not (late and way == "fexit"))


KERNELS = (
    Kernel("5.10", "5.10.", ("bullseye", "bullseye-security"), dynamic_preemption=False),
    Kernel("6.1", "6.1.", ("bookworm", "bookworm-security")),
    Kernel("6.12", "6.12.", ("trixie", "trixie-security")),
    Kernel("6.12-rt", "6.12.", ("trixie", "trixie-security"), "rt-"),
    Kernel("7", "7.", ("trixie-backports",), ways=("tp_btf", "fexit", "kprobe")),
)


@dataclass(frozen=True, slots=True)
class KernelTree:
    """A kernel that is here."""

    name: str
    architecture: str
    """Debian's name: amd64, arm64."""
    version: str
    """The package's, e.g. 6.1.192-2."""
    release: str
    """As uname -r says, e.g. 6.1.0-56-amd64."""
    directory: Path
    """Its root: lib/modules/RELEASE/, usr/src/ and, before 6.19, boot/."""

    @property
    def image(self) -> Path:
        """What boots: beside the modules since Debian's 6.19, in boot/ before."""
        beside = self.directory / "lib/modules" / self.release / "vmlinuz"
        return beside if beside.exists() else self.directory / "boot" / f"vmlinuz-{self.release}"


class UnknownKernel(Exception):
    """No kernel of that name is in the catalogue."""


def find(name: str) -> Kernel:
    """Raises UnknownKernel."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    known = ", ".join(kernel.name for kernel in KERNELS)
    raise UnknownKernel(f"no kernel {name}; there are: {known}")


def default_cache() -> Path:
    """Where kernels are kept between runs; XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cap-exporter" / "kernels"


def fetch(
    kernel: Kernel, cache: Path, architecture: str = "amd64", *, update: bool = False
) -> KernelTree:
    """The kernel, from the cache or from the archive. Raises ArchiveError."""
    directory = cache / architecture / kernel.name
    with _locked(cache / ".lock"):
        if not update and (tree := cached(kernel, cache, architecture)):
            return tree
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory.parent) as work:
            tree = _fetch(kernel, architecture, Path(work))
            if directory.exists():
                shutil.rmtree(directory)
            tree.directory.rename(directory)
    found = cached(kernel, cache, architecture)
    assert found
    return found


def cached(kernel: Kernel, cache: Path, architecture: str = "amd64") -> KernelTree | None:
    """The kernel if it is in the cache."""
    directory = cache / architecture / kernel.name
    try:
        facts = json.loads((directory / "kernel.json").read_text())
    except FileNotFoundError:
        return None
    return KernelTree(**facts | {"directory": directory})


def _fetch(kernel: Kernel, architecture: str, work: Path) -> KernelTree:
    archive = Archive(work / "apt", kernel.suites, architecture)
    archive.update()
    flavour = f"{kernel.variant}{architecture}"
    names = archive.closure([f"linux-image-{flavour}", f"linux-headers-{flavour}"], KERNEL_PACKAGES)
    packages = archive.download(names, work / "packages")
    root = work / "root"
    for package in packages:
        unpack(package, root, LEFT_OUT)
        package.unlink()
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    # Metapackages of several suites may bring more than one; the catalogue says which is meant.
    releases = [path.name for path in (root / "lib/modules").iterdir()]
    if len(releases) != 1:
        raise ArchiveError(f"{kernel.name}: one kernel was expected, {releases} came")
    [release] = releases
    image = next(
        name for name in names if name.endswith(release) and name.startswith("linux-image-")
    )
    version = archive.version(image)
    if not version.startswith(kernel.series):
        raise ArchiveError(
            f"{', '.join(kernel.suites)} has Linux {version} now, no {kernel.series}x any more: "
            "change the catalogue in tests/vm/kernels.py"
        )
    subprocess.run(["depmod", "--basedir", root, release], check=True)
    tree = KernelTree(kernel.name, architecture, version, release, root)
    (root / "kernel.json").write_text(json.dumps(asdict(tree) | {"directory": ""}, indent=1))
    return tree


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two test runs on one machine share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.kernels", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="KERNEL", help="default: all")
    parser.add_argument("--architecture", default="amd64", help="Debian's name; default amd64")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--update", action="store_true", help="fetch newer ones")
    asked = parser.parse_args(arguments)
    status = 0
    for name in asked.names or [kernel.name for kernel in KERNELS]:
        try:
            tree = fetch(find(name), asked.cache, asked.architecture, update=asked.update)
        except (ArchiveError, UnknownKernel) as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{name}\t{tree.release}\t{tree.version}\t{tree.directory}")
    return status


if __name__ == "__main__":
    sys.exit(main())
