# SPDX-License-Identifier: Apache-2.0
"""A root file system of another architecture: Debian's packages, unpacked.

No maintainer script runs, since this machine could not run one. That is enough for what the tests
use: a shell, Python, libbpf, mount and ip.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.vm.archive import Archive, ArchiveError, unpack

#: The suite with the same Python as the oldest that is supported.
SUITES = ("bookworm", "bookworm-security")

PACKAGES = (
    *("base-files", "base-passwd", "libc-bin", "bash", "dash", "coreutils"),
    *("util-linux", "mount", "hostname", "iproute2", "kmod", "procps"),
    *("busybox-static", "grep", "sed", "findutils", "libcap2-bin"),
    *("python3", "libbpf1", "bpftool", "runc", "crun"),
)

#: Directories of a merged /usr.
MERGED = ("bin", "sbin", "lib")

#: What is mounted on, and what no package has.
DIRECTORIES = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "var/log", "etc", "root", "mnt")


def fetch_root(cache: Path, architecture: str) -> Path:
    """The root, from the cache or from the archive. Raises ArchiveError."""
    root = cache / architecture / "root"
    if root.exists():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root.parent) as temporary:
        work = Path(temporary)
        archive = Archive(work / "apt", SUITES, architecture)
        archive.update()
        made = work / "root"
        for name in MERGED:
            (made / "usr" / name).mkdir(parents=True)
            (made / name).symlink_to(f"usr/{name}")
        for name in (
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "var/tmp",
            "var/log",
            "etc",
            "root",
            "mnt",
        ):
            (made / name).mkdir(parents=True, exist_ok=True)
        names = archive.with_dependencies(PACKAGES)
        if not names:
            raise ArchiveError(f"no packages for {architecture} in {', '.join(SUITES)}")
        for package in archive.download(names, work / "packages"):
            unpack(package, made, ("./usr/share/doc", "./usr/share/man", "./usr/share/locale"))
            package.unlink()
        # What base-passwd's and libc's scripts would write.
        shutil.copy(made / "usr/share/base-passwd/passwd.master", made / "etc/passwd")
        shutil.copy(made / "usr/share/base-passwd/group.master", made / "etc/group")
        made.rename(root)
    return root
