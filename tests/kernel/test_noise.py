# SPDX-License-Identifier: Apache-2.0
"""A container's profile is what its workload asked for: nothing of the runtime, nothing less."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import Counting, run_in_cgroup
from tests.kernel.containers import Container
from tests.kernel.test_reproducers import column

pytestmark = pytest.mark.needs("runc", "clang")

SYS_PACCT, SYSLOG = 20, 34

DEFAULT = ("AUDIT_WRITE", "KILL", "NET_BIND_SERVICE")
#: Linux 6.1's dmesg is refused twice (kernel/printk/printk.c, check_syslog_permissions()).
DMESG = {"CAP_SYSLOG"} if column(platform.release()) != "6.1" else {"CAP_SYSLOG", "CAP_SYS_ADMIN"}
BIND_80 = "timeout 0.3 nc -l -p 80"


def test_a_container_that_binds_port_80_and_runs_dmesg_shows_just_that(
    counting: Counting, container: Callable[..., Container]
) -> None:
    one = container(*DEFAULT)
    one.run("sh", "-c", f"{BIND_80}; dmesg; true")
    counting.drain()
    assert counting.profile(one.cgroup) == ({"CAP_NET_BIND_SERVICE"}, DMESG)
    # The noise is there, told apart and not lost.
    classes = counting.classes(one.cgroup)
    assert "setup" in classes
    # Where the compiler inlined cap_capable into mmap's question, only the tracepoint sees it.
    assert "noaudit" in classes or counting.info.attach != "tp_btf"
    setup = sum(n for key, n in counting.under(one.cgroup).items() if key.check_class == "setup")
    assert setup > 50


def test_what_is_executed_into_a_running_container_shows_just_its_own(
    counting: Counting, container: Callable[..., Container]
) -> None:
    one = container(*DEFAULT)
    one.start("sleep", "1000")
    counting.drain()
    assert counting.profile(one.cgroup) == (set(), set())
    one.exec("sh", "-c", f"{BIND_80}; dmesg; true")
    counting.drain()
    assert counting.profile(one.cgroup) == ({"CAP_NET_BIND_SERVICE"}, DMESG)


WORKLOADS = {
    "from a memfd": ("checks", "memfd", "/bin/busybox", "dmesg"),
    "from a memfd of a memfd": ("checks", "memfd", "/bin/checks", "memfd", "/bin/busybox", "dmesg"),
    "after unshare -m": ("unshare", "-m", "dmesg"),
    "in the same process after unshare -m": ("unshare", "-m", "sh", "-c", "dmesg"),
    "after chroot": ("sh", "-c", "mkdir /tmp/$$ && cp -a /bin /tmp/$$/ && chroot /tmp/$$ dmesg"),
    "under the runtime's name": (
        "sh",
        "-c",
        "cp /bin/checks '/tmp/runc:[2:INIT]' && exec '/tmp/runc:[2:INIT]' acct 1",
    ),
}


@pytest.mark.parametrize("way", WORKLOADS)
@pytest.mark.parametrize("entry", ["run", "exec"])
def test_a_workload_cannot_pass_as_set_up(
    counting: Counting, container: Callable[..., Container], way: str, entry: str
) -> None:
    one = container(*DEFAULT, "SYS_ADMIN", "SYS_CHROOT")
    command = ("sh", "-c", 'cd /; "$@"; true', "sh", *WORKLOADS[way])
    if entry == "run":
        one.run(*command)
    else:
        one.start("sleep", "1000")
        one.exec(*command)
    counting.drain()
    asked = {
        str(key.check_class)
        for key in counting.under(one.cgroup)
        if key.capability in (SYSLOG, SYS_PACCT) and key.verdict == "denied"
    }
    # It holds SYS_ADMIN for unshare, which is the kernel's way round a missing SYSLOG.
    assert asked in ({"alternative"}, {"meaningful"}), "it did not run, or passed as something else"


def test_a_workload_that_moves_to_its_own_sub_cgroup_from_a_memfd_is_the_workload(
    counting: Counting, container: Callable[..., Container], hierarchies: object
) -> None:
    mount = Path("/sys/fs/cgroup/unified")
    if not mount.is_dir():
        mount = Path("/sys/fs/cgroup")
    one = container(*DEFAULT)
    own = Path(f"{mount}{one.cgroup}")
    one.mounts = [
        {
            "destination": "/cg",
            "type": "bind",
            "source": str(mount),
            "options": ["rbind", "rw"],
        }
    ]
    sub = f"/cg{one.cgroup}/sub"
    done = one.run(
        "sh",
        "-c",
        f"mkdir -p {sub} && exec checks memfd /bin/checks move {sub}/cgroup.procs acct 1000",
    )
    counting.drain()
    subprocess.run(["rmdir", own / "sub", own], check=False, capture_output=True)
    pacct = {
        str(key.check_class): n
        for key, n in counting.under(one.cgroup).items()
        if key.capability == SYS_PACCT
    }
    assert pacct == {"meaningful": 1000}, done.stdout


def test_a_host_process_put_into_a_cgroup_counts_as_what_it_is(
    counting: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, path = fresh_cgroup("")
    run_in_cgroup(directory, checks, "acct", "10")
    counting.drain()
    assert counting.profile(path) == (set(), {"CAP_SYS_PACCT"})


def test_a_process_born_into_a_container_cgroup_by_a_foreign_executable_is_set_up(
    counting: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    """clone3(CLONE_INTO_CGROUP), which fires no cgroup_attach_task, from a sealed copy."""
    directory, path = fresh_cgroup("", f"kubepods/pod{'a' * 32}/{'b' * 64}")
    subprocess.run([checks, "memfd", checks, "into", directory, "acct", "7"], check=False)
    time.sleep(0.05)
    counting.drain()
    pacct = {
        str(k.check_class): n for k, n in counting.under(path).items() if k.capability == SYS_PACCT
    }
    assert pacct == {"setup": 7}


def test_the_same_from_an_ordinary_executable_is_not(
    counting: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, path = fresh_cgroup("", f"kubepods/pod{'c' * 32}/{'d' * 64}")
    subprocess.run([checks, "into", directory, "acct", "7"], check=False)
    counting.drain()
    pacct = {
        str(k.check_class): n for k, n in counting.under(path).items() if k.capability == SYS_PACCT
    }
    assert pacct == {"meaningful": 7}


def test_a_runtime_s_own_init_is_set_up_before_it_has_left_the_host(
    counting: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    """runc puts `runc init` into the cgroup while that runs the host's file on the host's mounts;
    what it then executes is not set-up any more."""
    directory, path = fresh_cgroup("", f"kubepods/pod{'a' * 32}/{'e' * 64}")
    init = "import ctypes, os, sys; input(); libc = ctypes.CDLL(None); os.setuid(65534); "
    init += "[libc.acct(None) for _ in range(7)]; os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", init, checks, "acct", "5"], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        # It is what it will be: a moved process that has not executed yet runs our file anyway.
        while b"setuid" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.001)
        (directory / "cgroup.procs").write_text(str(process.pid))
        process.stdin.write(b"\n")
    counting.drain()
    pacct = {
        str(k.check_class): n for k, n in counting.under(path).items() if k.capability == SYS_PACCT
    }
    assert pacct == {"setup": 7, "meaningful": 5}
