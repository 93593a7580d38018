# SPDX-License-Identifier: Apache-2.0
"""The machine that the kernel tests run in is what it says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.kernels import KernelTree, default_cache, fetch, find
from tests.vm.machine import Boot, MachineError, Outcome, run
from tests.vm.run import ROOT, environment, needed_directories

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("qemu-system-x86_64", "busybox", "modprobe")


@pytest.fixture(scope="module")
def kernel() -> KernelTree:
    return fetch(find("6.12"), default_cache())


def shell(boot: Boot, script: str, *, timeout: float = 100) -> tuple[str, Outcome]:
    printed: list[bytes] = []
    outcome = run(
        boot,
        ["bash", "-c", script],
        directory=ROOT,
        timeout=timeout,
        environment=environment(ROOT),
        needed=needed_directories(ROOT),
        output=printed.append,
    )
    return b"".join(printed).decode(), outcome


def test_output_and_exit_status_come_through_from_the_kernel_asked_for(kernel: KernelTree) -> None:
    printed, outcome = shell(Boot(kernel, cpus=2), "uname -r; nproc; echo wrong >&2; exit 7")
    assert printed == f"{kernel.release}\n2\nwrong\n"
    assert outcome.status == 7
    assert outcome.complaints == ()
    assert 0 < outcome.boot_seconds < outcome.seconds


def test_the_guest_has_the_repository_and_can_change_nothing(kernel: KernelTree) -> None:
    printed, outcome = shell(
        Boot(kernel),
        "test -f Makefile && python -c 'import pytest' && "
        "test -f /lib/modules/$(uname -r)/build/include/generated/autoconf.h && "
        "grep -c . /sys/kernel/btf/vmlinux >/dev/null && "
        "findmnt /sys/fs/bpf /sys/kernel/tracing >/dev/null; touch new",
    )
    assert "Read-only file system" in printed
    assert outcome.status == 1
    assert not (ROOT / "new").exists()


def test_cgroup_v2_is_alone_and_gives_limits(kernel: KernelTree) -> None:
    printed, _ = shell(
        Boot(kernel), "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/a; ls /sys/fs/cgroup/a"
    )
    assert printed.startswith("0::/\n")
    assert "memory.max" in printed


def test_cgroup_v1_has_a_hierarchy_a_controller_and_no_v2(kernel: KernelTree) -> None:
    # Not memory: Debian builds 6.12 without CONFIG_MEMCG_V1.
    printed, _ = shell(Boot(kernel, cgroups="v1"), "cat /proc/self/cgroup")
    assert ":pids:/" in printed
    assert ":cpu,cpuacct:/" in printed
    assert ":name=systemd:/" in printed
    assert "0::" not in printed


def test_hybrid_has_both(kernel: KernelTree) -> None:
    printed, _ = shell(
        Boot(kernel, cgroups="hybrid"), "cat /proc/self/cgroup; ls /sys/fs/cgroup/unified"
    )
    assert ":pids:/" in printed
    assert "0::/" in printed
    assert "cgroup.procs" in printed


def test_boot_parameters_and_hidden_directories_reach_the_guest(kernel: KernelTree) -> None:
    printed, _ = shell(
        Boot(kernel, parameters=("preempt=full",), hidden=("/sys/kernel/btf",)),
        "cat /sys/kernel/debug/sched/preempt; ls /sys/kernel/btf",
    )
    assert "(full)" in printed
    assert "vmlinux" not in printed


def test_files_for_the_host_arrive(kernel: KernelTree, tmp_path: Path) -> None:
    run(
        Boot(kernel),
        ["sh", "-c", "echo result >/run/vm/exchange/file"],
        directory=ROOT,
        timeout=100,
        environment=environment(ROOT),
        output=lambda _: None,
        exchange=tmp_path,
    )
    assert (tmp_path / "file").read_text() == "result\n"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_containers_start(kernel: KernelTree, runtime: str) -> None:
    script = f"""
        set -e
        mkdir -p /tmp/bundle/rootfs/bin /tmp/bundle/rootfs/proc /tmp/bundle/rootfs/dev \\
            /tmp/bundle/rootfs/sys
        cp "$(command -v busybox)" /tmp/bundle/rootfs/bin/sh
        cd /tmp/bundle
        {runtime} spec
        python3 -c 'import json
spec = json.load(open("config.json"))
spec["process"].update(terminal=False, args=["/bin/sh", "-c", "echo contained; exit 5"])
json.dump(spec, open("config.json", "w"))'
        {runtime} run container
    """
    printed, outcome = shell(Boot(kernel), script)
    assert printed.strip() == "contained"
    assert outcome.status == 5


def test_time_that_runs_out_is_an_error_that_says_so(kernel: KernelTree) -> None:
    with pytest.raises(MachineError, match="was ended after 8 s"):
        shell(Boot(kernel), "sleep 100", timeout=8)


def test_a_panic_is_an_error_with_the_kernels_words(kernel: KernelTree) -> None:
    with pytest.raises(MachineError, match="Kernel panic"):
        shell(Boot(kernel, parameters=("sysrq_always_enabled",)), "echo c >/proc/sysrq-trigger")


def test_a_machine_that_never_comes_up_is_an_error_after_a_second_try(
    kernel: KernelTree, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MachineError, match="no module 9p"):
        shell(Boot(kernel, parameters=("module_blacklist=9p",)), "true")
    assert "starting once more" in capfd.readouterr().err
