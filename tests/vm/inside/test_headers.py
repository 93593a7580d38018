# SPDX-License-Identifier: Apache-2.0
"""BCC with this kernel's headers, as on kernels without BTF, sees and tells what the BTF's offsets
give. Runs inside each kernel: its headers are there."""

from __future__ import annotations

import platform
import re
import subprocess
from contextlib import closing
from dataclasses import replace

import pytest

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.model import Event, SourceError
from cap_exporter.sources import bcc_loader
from cap_exporter.sources.bcc import BccSource
from cap_exporter.sources.events import EventSettings

pytestmark = [pytest.mark.kernel, pytest.mark.needs("setpriv", "dmesg")]

SYSLOG = 34
SETTINGS = EventSettings(arguments=True)


def a_dmesg(source: BccSource) -> tuple[Event, dict[tuple[int, str, str], int]]:
    """The event of a dmesg that is denied, and what was counted of CAP_SYSLOG."""
    with closing(source):
        source.open()
        command = ("setpriv", "--bounding-set=-syslog,-sys_admin", "dmesg", "--level", "err")
        subprocess.run(command, cwd="/usr/share", capture_output=True, check=False)
        drained = source.drain()
    (event,) = (event for event in drained.events if event.check.capability == SYSLOG)
    counts = {
        (key.capability, str(key.verdict), str(key.check_class)): count
        for key, count in drained.increments
        if key.capability == SYSLOG
    }
    return event, counts


def test_headers_tell_what_btf_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    by_btf, counted_by_btf = a_dmesg(BccSource(discover(), events=SETTINGS))
    monkeypatch.setattr(bcc_loader, "_struct_offsets", lambda _btf: None)
    try:
        by_headers, counted = a_dmesg(BccSource(discover(), events=SETTINGS))
    except SourceError as error:
        # Before, an error in the kernel's own files is of what we include of them. Since 7 those
        # files are beyond the clang of Debian 12, and every such kernel has BTF.
        headers_fail = re.search(r"\n\s+include/\S+ error:", str(error)) is not None
        if headers_fail and int(platform.release().split(".")[0]) >= 7:
            pytest.skip("this machine's BCC is too old for this kernel's own headers")
        raise
    assert counted == counted_by_btf
    assert counted[SYSLOG, "denied", "meaningful"] >= 1
    assert by_headers.arguments == ("dmesg", "--level", "err")
    assert by_headers.process.cwd == "/usr/share"
    assert by_headers.process.executable.endswith("/bin/dmesg")
    assert by_headers.syscall is not None
    assert by_headers.namespaces["mnt"] > 0
    assert without_times(by_headers) == without_times(by_btf)
    for one in (by_btf, by_headers):
        assert 0 <= one.time - one.process.start_time < 30
        assert one.parent.start_time < one.process.start_time


def without_times(event: Event) -> Event:
    """Of one run what is the same in each. Before 5.15 only headers tell where a task's registers
    are, and with them the system call."""
    process = replace(event.process, start_time=0, pid=0)
    parent = replace(event.parent, start_time=0)
    return replace(event, time=0, process=process, parent=parent, tid=0, container_pid=0, syscall=0)
