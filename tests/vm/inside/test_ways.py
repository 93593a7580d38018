# SPDX-License-Identifier: Apache-2.0
"""Every way in counts the same checks, and all of them. Runs inside each kernel.

CAP_EXPORTER_SOURCE and CAP_EXPORTER_ATTACH say which way; unset, the one the program would choose.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from cap_exporter.capabilities import number_of
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.model import CheckClass, CheckKey, Drain, Source, UserNamespace, Verdict
from cap_exporter.sources.choose import make_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kernel, pytest.mark.needs("setpriv", "unshare", "ip", "busybox")]

PROCESSES, CHECKS = 3, 20_000

#: prctl(PR_CAPBSET_DROP) asks for CAP_SETPCAP exactly once (security/commoncap.c).
HAMMER = """
import ctypes, os
open({procs!r}, "w").write("0")
prctl = ctypes.CDLL(None).prctl
os.setresuid(1000, 1000, 1000)
for _ in range({checks}):
    prctl(24, 5)
"""

#: Run as uid 1000 without capabilities. Each makes checks of another kind: audited, probing,
#: with a way round, in a user namespace of its own. The same number each time: nothing that looks
#: at every process, of which there may be one more.
COMMANDS = (
    "dmesg",
    "cat /etc/shadow",
    "ls /root",
    "kill -0 1",
    "mount -t tmpfs none /mnt",
    "unshare -m true",
    "unshare -Ur true",
    "unshare -Urn ip link set lo up",
    "cat /proc/1/maps",
    "cat /proc/1/stat",
    "cat /proc/sys/net/ipv4/ip_forward",
    "ip link set lo mtu 65000",
    "chroot / true",
    "busybox chown 0 /tmp",
    "python3 -S -E -c 'import socket as s; s.socket(s.AF_INET, s.SOCK_RAW, 1)'",
    "python3 -S -E -c 'import os; os.setuid(0)'",
)


def opened(attach: str | None, source: str) -> Source:
    made = make_source(source, discover(), attach=attach)
    info = made.open()
    assert attach in {None, info.attach}
    return made


@pytest.fixture
def attach() -> str | None:
    return os.environ.get("CAP_EXPORTER_ATTACH")


@pytest.fixture
def source() -> str:
    return os.environ.get("CAP_EXPORTER_SOURCE", "auto")


@contextmanager
def cgroup() -> Iterator[Path]:
    """A new cgroup in the hierarchy that is counted by."""
    [first, *_] = discover().counted
    assert first.mount
    made = first.mount / f"ways-{os.getpid()}-{time.monotonic_ns()}"
    made.mkdir()
    try:
        yield made
    finally:
        made.rmdir()


def of(drains: list[Drain], made: Path) -> Counter[CheckKey]:
    """The counts of a cgroup, cgroup left out of the key's meaning: one cgroup, one test."""
    counts: Counter[CheckKey] = Counter()
    for drain in drains:
        for key, count in drain.increments:
            if key.cgroup.id == made.stat().st_ino:
                counts[key] += count
    return counts


def test_every_check_is_counted_once_while_it_is_drained(attach: str | None, source: str) -> None:
    with closing(opened(attach, source)) as counting, cgroup() as made:
        code = HAMMER.format(procs=str(made / "cgroup.procs"), checks=CHECKS)
        drains: list[Drain] = []
        running = [
            subprocess.Popen([sys.executable, "-S", "-E", "-c", code]) for _ in range(PROCESSES)
        ]
        while any(process.poll() is None for process in running):
            drains.append(counting.drain())
            time.sleep(0.02)
        drains.append(counting.drain())
        assert [process.returncode for process in running] == [0] * PROCESSES
        setpcap = {
            (key.verdict, key.user_namespace, key.check_class): count
            for key, count in of(drains, made).items()
            if key.capability == number_of("SETPCAP")
        }
        missed = dict(drains[-1].missed)
    assert setpcap == {
        (Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL): PROCESSES * CHECKS
    }, f"missed: {missed}"


def workload(attach: str | None, source: str) -> dict[tuple[int, str, str, str], int]:
    """What COMMANDS made, by capability, verdict, user namespace and class."""
    with closing(opened(attach, source)) as counting, cgroup() as made:
        for command in COMMANDS:
            subprocess.run(
                [
                    *("sh", "-c"),
                    f"echo 0 >{made}/cgroup.procs; exec setpriv --reuid 1000 --regid 1000 "
                    f'--clear-groups --inh-caps=-all sh -c "$1"',
                    *("sh", command),
                ],
                check=False,
                capture_output=True,
            )
        counts = of([counting.drain()], made)
    return {
        (key.capability, str(key.verdict), str(key.user_namespace), str(key.check_class)): count
        for key, count in counts.items()
    }


def test_a_workload_counts_the_same_as_by_the_entry_probe(attach: str | None, source: str) -> None:
    workload(attach, source)  # warms caches: page faults make checks too
    expected = workload("kprobe", "libbpf")
    assert expected
    assert workload(attach, source) == expected


def test_what_the_kernel_only_probes_for_is_not_meaningful(attach: str | None, source: str) -> None:
    counts = workload(attach, source)
    assert not [key for key in counts if key[3] == CheckClass.UNCLASSIFIED]
    # Reading /proc/PID/stat and /proc/sys/net probes for SYS_PTRACE and NET_ADMIN; CAP_SYS_ADMIN
    # is meant by mount and unshare.
    noaudit = {key[0] for key in counts if key[3] == CheckClass.NOAUDIT}
    assert {number_of("SYS_PTRACE"), number_of("NET_ADMIN")} <= noaudit
    meant = (number_of("SYS_ADMIN"), "denied", "init", str(CheckClass.MEANINGFUL))
    assert counts[meant] >= 1
