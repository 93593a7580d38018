# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark and writes what they report to benchmarks/RESULTS.md.

python -m benchmarks [NAME…]      only these, e.g. kernel drain; RESULTS.md stays as it is
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results import COLLECT, Result

HERE = Path(__file__).parent

#: Only when it is named: what takes minutes and gives curves, not ratios.
NAMED_ONLY = {"bench_growth"}


def main() -> int:
    wanted = sys.argv[1:]
    names = [path.stem for path in sorted(HERE.glob("bench_*.py"))]
    if unknown := {f"bench_{name}" for name in wanted} - set(names):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        return 2
    failed = []
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as collected:
        environ = {**os.environ, COLLECT: collected.name}
        for name in names:
            asked = name.removeprefix("bench_") in wanted if wanted else name not in NAMED_ONLY
            if not asked:
                continue
            print(f"== {name}", flush=True)
            command = [sys.executable, "-m", f"benchmarks.{name}"]
            if subprocess.run(command, env=environ, check=False).returncode:
                failed.append(name)
        results = [Result(*json.loads(line)) for line in collected]
    if not wanted and not failed:
        (HERE / "RESULTS.md").write_text(_page(results), encoding="utf-8")
        print(f"written: {HERE.name}/RESULTS.md")
    if failed:
        print(f"did not run to the end: {', '.join(failed)}")
    return 1 if failed else 0


def _page(results: list[Result]) -> str:
    lines = [
        "# What was measured",
        "",
        f"By `make bench`, in one run, on {_machine()}.",
        "Ratios are of alternatives that took turns in that run.",
        "",
        "| Topic | What | Measured | Target | Met |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        met = {None: "", True: "yes", False: "**no**"}[result.met]
        lines.append(f"| {' | '.join([*result[:4], met])} |")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return (
        f"Linux {platform.release().split('-')[0]}, {platform.machine()}, "
        f"{os.cpu_count()} CPUs ({cpu[1].strip() if cpu else 'unknown'}), "
        f"{int(memory[1]) // 2**20 if memory else '?'} GiB of memory, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
