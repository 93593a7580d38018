# SPDX-License-Identifier: Apache-2.0
"""The bcc source counts what the libbpf source counts.

Kernel headers for BCC: a kernel with BTF needs none (bpf/bcc-headers); on one without, those of
`make test` (BCC_HEADERS in tools/system-packages.sh) must be the running kernel's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import CheckKey, SourceError
from cap_exporter.sources import bcc_loader
from cap_exporter.sources.bcc import BccSource
from tests.kernel.conftest import Counting, run_in_cgroup
from tests.kernel.containers import Container

pytestmark = pytest.mark.needs("runc", "clang")


@pytest.fixture
def both(hierarchies: Hierarchies, counting: Counting) -> Iterator[tuple[Counting, Counting]]:
    """The libbpf and the bcc source, attached at the same time."""
    source = BccSource(hierarchies)
    try:
        yield counting, Counting(hierarchies, source)
    finally:
        source.close()


def by_key(counting: Counting, path: str) -> dict[CheckKey, int]:
    return dict(sorted(counting.under(path).items()))


def test_a_container_s_life_gives_equal_counts_by_key(
    both: tuple[Counting, Counting], container: Callable[..., Container]
) -> None:
    one = container("AUDIT_WRITE", "KILL", "NET_BIND_SERVICE", "SYS_ADMIN")
    one.start("sleep", "1000")
    one.exec(
        "sh", "-c", "timeout 0.3 nc -l -p 80; dmesg; unshare -m true; checks memfd /bin/busybox id"
    )
    one.kill()
    for counting in both:
        counting.drain()
    libbpf, bcc = (by_key(counting, one.cgroup) for counting in both)
    assert libbpf == bcc
    assert {key.check_class for key in bcc} >= {"setup", "meaningful", "alternative"}
    # Those are made by a caller into which the compiler puts cap_capable() whole: docs/kernels.md.
    if both[0].info.attach == "tp_btf":
        assert "noaudit" in {key.check_class for key in bcc}


COMMANDS = (
    "dmesg",
    "cat /etc/shadow",
    "chown 0 /etc/hostname",
    "/usr/bin/python3 -S -E -c 'import os; os.setuid(1000)'",
    "/usr/bin/python3 -S -E -c 'import os; os.setuid(0)'",
    "head -1 /proc/kallsyms",
    "cat /proc/sys/net/core/somaxconn",
    "cat /proc/1/stat",
    "unshare -Urm mount -t tmpfs none /mnt",
    "nice -n -5 true",
    "unshare -m true",
)


@pytest.mark.parametrize("controller", ["", "pids"])
def test_known_commands_give_equal_counts_by_key(
    both: tuple[Counting, Counting],
    fresh_cgroup: Callable[..., tuple[Path, str]],
    checks: Path,
    controller: str,
) -> None:
    directory, path = fresh_cgroup(controller)
    for command in COMMANDS:
        run_in_cgroup(directory, "sh", "-c", command, uid=1000)
    run_in_cgroup(directory, checks, "acct", "100000")
    for counting in both:
        counting.drain()
    libbpf, bcc = (by_key(counting, path) for counting in both)
    assert libbpf == bcc
    assert sum(n for key, n in bcc.items() if key.capability == 20) == 100_000


def test_short_cgroups_are_named_and_their_counters_go(
    hierarchies: Hierarchies, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    source = BccSource(hierarchies)
    counting = Counting(hierarchies, source)
    try:
        paths = []
        for _ in range(20):
            directory, path = fresh_cgroup("")
            run_in_cgroup(directory, checks, "acct", "1")
            directory.rmdir()
            paths.append(path)
        counting.drain(release=True)
        assert {p: sum(counting.under(p).values()) >= 1 for p in paths} == dict.fromkeys(
            paths, True
        )
        used = counting.last.slots_used
        source._counters.drain(float("inf"))
        source._counters.commit()
        assert source._counters.used <= used - 20
    finally:
        source.close()


def test_programs_fit_into_kernels_before_5_2() -> None:
    """BPF_MAXINSNS, 4096, was the limit there (include/uapi/linux/bpf_common.h)."""
    program = bcc_loader.BccProgram(bcc_loader.import_bcc(), btf=None, counters=1024, events=200)
    try:
        for name in ("checks_raw_tracepoint", "checks_kprobe", "tell_process", "tell_parent"):
            assert 8 * 500 < len(program._bpf.dump_func(name.encode())) < 8 * 4096, name
    finally:
        program.close()


def test_a_missing_bcc_is_told_with_its_package(tmp_path: Path) -> None:
    other = tmp_path / "bcc"
    other.mkdir()
    (other / "__init__.py").write_text("")  # PyPI's: no BPF in it
    import sys

    loaded = sys.modules.pop("bcc", None)
    try:
        with pytest.raises(SourceError, match="python3-bpfcc"):
            bcc_loader.import_bcc([tmp_path])
        assert "bcc" not in sys.modules
    finally:
        if loaded is not None:
            sys.modules["bcc"] = loaded


def test_missing_headers_and_a_dangling_link_are_told_apart(tmp_path: Path) -> None:
    assert platform.release() in bcc_loader.why_no_headers(tmp_path)
    (tmp_path / "build").symlink_to("/usr/src/nowhere")
    assert "/usr/src/nowhere" in bcc_loader.why_no_headers(tmp_path)
    (tmp_path / "build").unlink()
    (tmp_path / "build").mkdir()
    assert bcc_loader.why_no_headers(tmp_path) == ""


def test_a_way_that_bcc_does_not_have_is_named(hierarchies: Hierarchies) -> None:
    with pytest.raises(SourceError, match="raw_tracepoint or kprobe, not by fexit"):
        BccSource(hierarchies, attach="fexit").open()
