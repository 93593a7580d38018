# SPDX-License-Identifier: Apache-2.0
"""Run a command on another kernel, with this repository and its virtual environment.

    python -m tests.vm.run 6.1 uname -r
    python -m tests.vm.run --cgroups v1 --parameter preempt=full 6.12 python -m pytest tests/kernel

Exit status: the command's; 124 where the time ran out or the machine went off before the command
had ended, 125 where it could not be started.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.archive import ArchiveError
from tests.vm.kernels import UnknownKernel, default_cache, fetch, find
from tests.vm.machine import Boot, MachineError, run
from tests.vm.root import fetch_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

#: This machine's architecture, by Debian's name; its root file system is this machine's own.
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

NO_RESULT, NO_START = 124, 125


def environment(
    root: Path, more: Mapping[str, str] | None = None, *, foreign: bool = False
) -> dict[str, str]:
    """What a command in the guest has around it: the repository's Python first, and nothing that
    would write into the read-only root. ``foreign``: the guest's Python is of another
    architecture; it gets those packages of the virtual environment that are pure Python."""
    path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    packages = [str(root)]
    if foreign:
        packages += map(str, root.glob(".venv/lib/python3.*/site-packages"))
    else:
        path = [str(root / ".venv/bin"), str(root / ".tools/bin"), *path]
    return {
        "PATH": ":".join(path),
        "PYTHONPATH": ":".join(packages),
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # hypothesis is native code, and the tests of kernels do without.
        "PYTEST_ADDOPTS": f"-p no:cacheprovider{' -p no:hypothesispytest' if foreign else ''}",
        **({"CI": os.environ["CI"]} if "CI" in os.environ else {}),
        **(more or {}),
    }


def needed_directories(root: Path, *, foreign: bool = False) -> tuple[Path, ...]:
    """The repository, and the installation that its virtual environment's Python is from."""
    if foreign:
        return (root,)
    python = root / ".venv/bin/python"
    home = python.resolve().parents[1] if python.exists() else Path(sys.base_prefix)
    return (root, home)


def main(arguments: Sequence[str] | None = None) -> int:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm.run",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cgroups", choices=("v2", "v1", "hybrid"), default="v2")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1536, metavar="MiB")
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        help="for the kernel's command line, e.g. preempt=full; may be given more than once",
    )
    parser.add_argument(
        "--hide",
        action="append",
        default=[],
        metavar="DIRECTORY",
        help="is empty in the guest, e.g. /sys/kernel/btf; may be given more than once",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="environment variable"
    )
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--console", type=Path, metavar="FILE", help="keep the kernel's log")
    parser.add_argument(
        "--exchange",
        type=Path,
        metavar="DIRECTORY",
        help="gets what the command writes to /run/vm/exchange",
    )
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--architecture", choices=("amd64", "arm64"), default=NATIVE)
    parser.add_argument("kernel")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    if not asked.command:
        parser.error("no command given")
    more = dict(pair.partition("=")[::2] for pair in asked.set)
    try:
        tree = fetch(find(asked.kernel), asked.cache, asked.architecture)
        foreign = asked.architecture != NATIVE
        boot = Boot(
            tree,
            root=fetch_root(asked.cache, asked.architecture) if foreign else Path("/"),
            cgroups=asked.cgroups,
            cpus=asked.cpus,
            memory_mib=asked.memory,
            parameters=tuple(asked.parameter),
            hidden=tuple(asked.hide),
        )
    except (ArchiveError, UnknownKernel) as error:
        print(error, file=sys.stderr)
        return NO_START
    try:
        outcome = run(
            boot,
            asked.command,
            directory=ROOT,
            timeout=asked.timeout,
            environment=environment(ROOT, more, foreign=foreign),
            needed=needed_directories(ROOT, foreign=foreign),
            output=write,
            console=asked.console,
            exchange=asked.exchange,
        )
    except MachineError as error:
        print(error, file=sys.stderr)
        return NO_RESULT
    for line in outcome.complaints:
        print(f"The kernel complained: {line}", file=sys.stderr)
    print(
        f"Linux {tree.release}: up after {outcome.boot_seconds:.1f} s, {outcome.seconds:.1f} s in"
        f" all, {outcome.memory_mib} MiB, exit status {outcome.status}",
        file=sys.stderr,
    )
    return outcome.status


def write(part: bytes) -> None:
    """Show what the command prints as it comes."""
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
