# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF programs that benchmarks compare with."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

BPF = Path(__file__).parent.parent / "bpf"


def compile_bpf(source: Path, output: Path) -> None:
    """Raises subprocess.CalledProcessError; clang has said why."""
    machine = {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{machine}", f"-I{BPF}"]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(output)], check=True)
