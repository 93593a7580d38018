#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile bpf/ into the package: the only place that says how.

``make build`` runs it, and so does hatch_build.py when a wheel or an editable install is made.
Needs clang, llvm-strip and libbpf's headers, and of Python only the standard library.
The same sources and the same clang give the same bytes in any folder: no path gets into an object.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Where the package looks for what is built here. Ignored by git, shipped in the wheel.
OUTPUT = Path("cap_exporter/_bpf")

SOURCE = Path("bpf/cap_checks.bpf.c")

#: Of each the machine, since a kprobe reads its arguments from that machine's registers, and more
#: flags: before 6.2 the kernel has no bpf_rdonly_cast(). The wheel holds them all, which keeps it
#: one wheel for every machine.
OBJECTS: Mapping[str, tuple[str, ...]] = {
    "cap_checks.bpf.o": ("-D__TARGET_ARCH_x86",),
    "cap_checks.arm64.bpf.o": ("-D__TARGET_ARCH_arm64",),
    "cap_checks.before62.bpf.o": ("-D__TARGET_ARCH_x86", "-DNO_RDONLY_CAST"),
    "cap_checks.before62.arm64.bpf.o": ("-D__TARGET_ARCH_arm64", "-DNO_RDONLY_CAST"),
}

#: BCC compiles on the host it runs on: the source itself is shipped, with the headers it includes.
COPIES = ("bpf/*.bcc.c", "bpf/cap_checks.h", "bpf/sampling.h")

#: What BCC wants of kernel headers where the BTF tells the rest.
HEADERS = Path("bpf/bcc-headers")

#: Debian's packages for what is needed, named in error messages.
PACKAGES: Mapping[str, str] = {"clang": "clang", "llvm-strip": "llvm"}


class BuildError(Exception):
    """The objects cannot be built. The text names what is missing or wrong."""


def compile_command(clang: str, defines: Sequence[str], output: Path) -> list[str]:
    """Run it in the repository's root: the paths in it are relative, so that none is recorded.

    -mcpu=v3: the atomic operations that return the old value need it (Linux 5.12), and its 32-bit
    instructions (5.1) spare shifts. -g: BTF, by which libbpf finds the running kernel's offsets.
    """
    return [
        clang,
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-mcpu=v3",
        *defines,
        "-Wall",
        "-Werror",
        "-Ibpf",
        "-fdebug-compilation-dir=.",
        "-c",
        SOURCE.as_posix(),
        "-o",
        str(output),
    ]


def find_tool(name: str, environ: Mapping[str, str]) -> str:
    """The tool's path; CLANG=… or LLVM_STRIP=… in the environment name another than PATH's."""
    wanted = environ.get(name.upper().replace("-", "_"), name)
    found = shutil.which(wanted, path=environ.get("PATH"))
    if found is None:
        raise BuildError(
            f"{wanted} is missing; it is needed to compile {SOURCE}. "
            f"On Debian: apt-get install {PACKAGES[name]}"
        )
    return found


def run(command: list[str], root: Path) -> None:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "'bpf/bpf_helpers.h' file not found" in done.stderr:
        raise BuildError(
            "libbpf's headers (bpf/bpf_helpers.h) are missing. "
            "On Debian: apt-get install libbpf-dev"
        )
    raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}".rstrip())


def build(root: Path, environ: Mapping[str, str]) -> list[Path]:
    """Compile and copy all into the package under ``root``; returns the files' paths."""
    clang = find_tool("clang", environ)
    strip = find_tool("llvm-strip", environ)
    output = root / OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    built = []
    for name, defines in OBJECTS.items():
        # Replaced in one step: a process that loads the object meanwhile sees the old or the new.
        partial = output / f".{name}.{os.getpid()}"
        try:
            run(compile_command(clang, defines, partial), root)
            run([strip, "--strip-debug", str(partial)], root)  # DWARF goes, .BTF and .BTF.ext stay
            partial.replace(output / name)
        finally:
            partial.unlink(missing_ok=True)
        built.append(output / name)
    for source in (found for pattern in COPIES for found in sorted(root.glob(pattern))):
        shutil.copyfile(source, output / source.name)
        built.append(output / source.name)
    shutil.copytree(root / HEADERS, output / HEADERS.name, dirs_exist_ok=True)
    built.append(output / HEADERS.name)
    return built


def main() -> int:
    try:
        built = build(ROOT, os.environ)
    except (BuildError, OSError) as error:
        print(f"compile_bpf: {error}", file=sys.stderr)
        return 1
    for path in built:
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
