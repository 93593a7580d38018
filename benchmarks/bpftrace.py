# SPDX-License-Identifier: Apache-2.0
"""What somebody with bpftrace would type to count checks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Its kprobe on cap_capable() would be dearer, and does not see inlined callers. rawtracepoint is
#: not in Debian 12's bpftrace.
PROGRAM = "tracepoint:capability:cap_capable { @[cgroup, args->cap, args->ret] = count(); }"

_FORMAT = Path("/sys/kernel/tracing/events/capability/cap_capable/format")

#: Its own is 4096: less than what is counted with a thousand cgroups.
_ENVIRON = {"BPFTRACE_MAP_KEYS_MAX": "16384"}


def why_not() -> str:
    """Why it cannot run here; empty: it can."""
    if shutil.which("bpftrace") is None:
        return "not installed (Debian's package bpftrace)"
    if not _FORMAT.exists():
        return "this kernel has no tracepoint capability:cap_capable (Linux 6.14)"
    return ""


@contextmanager
def counting() -> Iterator[None]:
    """Raises RuntimeError where it has counted nothing."""
    running = subprocess.Popen(
        ["bpftrace", "-e", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **_ENVIRON},
    )
    try:
        deadline = time.monotonic() + 20
        while not _attached(running.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield
    finally:
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    if not re.search(r"^@\[", said, re.MULTILINE):
        raise RuntimeError(f"bpftrace counted nothing: {said}")


def _attached(pid: int) -> bool:
    shown = subprocess.run(["bpftool", "perf", "show"], capture_output=True, text=True, check=True)
    return bool(re.search(rf"^pid {pid}\b.*\btracepoint +cap_capable\b", shown.stdout, re.M))
