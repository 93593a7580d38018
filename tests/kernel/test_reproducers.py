# SPDX-License-Identifier: Apache-2.0
"""Commands with known checks (tests/data/reproducers.json): capability, verdict, audit class."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cap_exporter.capabilities import name_of
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.model import CheckClass
from cap_exporter.sources.libbpf import LibbpfSource
from tests.kernel.conftest import Counting, run_in_cgroup

pytestmark = pytest.mark.needs("setpriv", "ip", "strace")

ROWS = json.loads((Path(__file__).parent.parent / "data/reproducers.json").read_text())["rows"]

#: What depends on the distribution's build of a program more than on the kernel.
UNSTABLE = {
    "sudo_like": "su asks PAM modules, whose set differs",
    "ptrace_ps": "what ps reads differs by version",
    "netadmin": "ip drops capabilities or not by version",
    "setfcap": "setcap drops capabilities or not by version",
    "mount": "mount asks for its ids in ways that differ by version",
    "kill2": "the same as kill",
}


#: Newer kernels ask other questions here and there, and there is no table of theirs.
NEWEST = (6, 19)


def version_of(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    assert found
    return int(found[1]), int(found[2])


def column(release: str) -> str:
    """The column that fits a kernel: the tracepoint came with 6.14, dmesg changed after 6.1."""
    version = version_of(release)
    return "6.18" if version >= (6, 14) else "6.12" if version >= (6, 2) else "6.1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Counting]:
    attach = os.environ.get("CAP_EXPORTER_ATTACH")
    hierarchies = discover()
    source = LibbpfSource(hierarchies, attach=None if attach in (None, "auto") else attach)
    try:
        yield Counting(hierarchies, source)
    finally:
        source.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$W, reachable for everybody."""
    root = tmp_path_factory.mktemp("w")
    for above in (root, root.parent, root.parent.parent):
        above.chmod(0o755)
    for name, owner, mode in (("own", 1000, 0o644), ("rootw", 0, 0o644), ("suid", 1000, 0o4777)):
        (root / name).write_text("x\n")
        os.chown(root / name, owner, 0)
        (root / name).chmod(mode)
    root.chmod(0o777)
    (root / "d700").mkdir(mode=0o700)
    sticky = root / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "f").write_text("x\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def shared_memory() -> Iterator[None]:
    """A segment of root's under the key 0x7777."""
    libc = ctypes.CDLL(None)
    segment = libc.shmget(0x7777, 4096, 0o1600)  # IPC_CREAT
    yield
    libc.shmctl(segment, 0, None)  # IPC_RMID


@pytest.fixture(scope="module")
def victim() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process.pid
    process.kill()
    process.wait()


def audit_class(check_class: CheckClass) -> str | None:
    if check_class in (CheckClass.MEANINGFUL, CheckClass.ALTERNATIVE):
        return "audited"
    return "noaudit" if check_class is CheckClass.NOAUDIT else None


@pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in ROWS])
def test_a_command_s_checks_have_their_capability_verdict_and_audit_class(
    shared: Counting,
    fresh_cgroup: Callable[..., tuple[Path, str]],
    folder: Path,
    victim: int,
    row: dict[str, Any],
) -> None:
    expected = {tuple(check) for check in row[column(platform.release())]}
    directory, path = fresh_cgroup("")
    command = row["command"].replace("$W", str(folder)).replace("$VICTIM", str(victim))
    run_in_cgroup(directory, "sh", "-c", command, uid=1000)
    shared.drain()
    seen = {
        (name_of(key.capability).removeprefix("CAP_"), str(key.verdict), audit)
        for key in shared.under(path)
        if (audit := audit_class(key.check_class))
        and not (key.capability == 21 and key.check_class is CheckClass.NOAUDIT)
    }
    if row["name"] in UNSTABLE or version_of(platform.release()) > NEWEST:
        # Which checks are made is the program's affair, but none may be of another audit class.
        other = {"audited": "noaudit", "noaudit": "audited"}
        assert not seen & {(c, v, other[a]) for c, v, a in expected}
        return
    if expected:
        assert seen == expected
    else:
        # None made where the table comes from, because something was not there to ask about (user
        # namespaces, vsock, a disk): where it is, they are those of a kernel that had it.
        assert seen in (expected, {tuple(check) for check in row["6.18"]})
    assert isinstance(shared.source, LibbpfSource)
    assert shared.source.stack_walks == 0


def test_read_search_denied_means_nothing_to_one_who_holds_override(
    shared: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], folder: Path
) -> None:
    secret = folder / "secret"
    secret.write_text("x\n")
    secret.chmod(0)
    directory, path = fresh_cgroup("")
    status = run_in_cgroup(directory, "cat", secret, uid=1000, capabilities="+dac_override")
    shared.drain()
    assert status == 0
    used, denied = shared.profile(path)
    assert (used, denied) == ({"CAP_DAC_OVERRIDE"}, set())
    assert "alternative" in shared.classes(path)


def test_a_user_namespace_s_own_checks_are_told_apart_from_the_host_s(
    shared: Counting, fresh_cgroup: Callable[..., tuple[Path, str]]
) -> None:
    directory, path = fresh_cgroup("")
    run_in_cgroup(directory, "unshare", "-Ur", "nice", "-n", "-5", "true", uid=1000)
    run_in_cgroup(directory, "unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt", uid=1000)
    shared.drain()
    seen = {
        (name_of(k.capability), str(k.verdict), str(k.user_namespace))
        for k in shared.under(path)
        if k.check_class is CheckClass.MEANINGFUL
    }
    assert ("CAP_SYS_NICE", "denied", "init") in seen
    assert ("CAP_SYS_ADMIN", "allowed", "other") in seen
    assert ("CAP_SYS_ADMIN", "allowed", "init") not in seen


def test_classes_stay_right_with_another_program_on_the_hook(
    shared: Counting, fresh_cgroup: Callable[..., tuple[Path, str]]
) -> None:
    other = LibbpfSource(discover(), attach=shared.info.attach)
    other.open()
    try:
        directory, path = fresh_cgroup("")
        run_in_cgroup(directory, "sh", "-c", "head -1 /proc/kallsyms; dmesg", uid=1000)
        shared.drain()
        syslog = {str(k.check_class) for k in shared.under(path) if k.capability == 34}
        assert syslog == {"noaudit", "meaningful"}
    finally:
        other.close()
