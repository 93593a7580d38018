# SPDX-License-Identifier: Apache-2.0
"""The cgroups of a process: which of its lines to believe."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.cgroups.processes import cgroups_of, parse_process_cgroups
from cap_exporter.model import ReferenceKind

if TYPE_CHECKING:
    from pathlib import Path

A = "0c34bcd7d02f321d0df7aa6ea703285b02abebc9096c5128c14091fc43ea1f3b"
POD = "BestEffort.slice/BestEffort-pod0d33f94b_ab1a_11e6_9e1a_68f7281d8004.slice"

# kubernetes#36807, elastic/beats#30977: controllers that disagree.
DISAGREEING = [
    f"11:memory:/system.slice/docker.service/{POD}/{A}",
    "9:pids:/system.slice/docker.service",
    "7:cpuset:/",
    "1:name=systemd:/system.slice/docker.service",
    "0::/system.slice/docker.service",
]


def first(*lines: str) -> tuple[int, str]:
    found = parse_process_cgroups("".join(f"{line}\n" for line in lines).encode())
    return found[0].hierarchy, found[0].path


@pytest.mark.parametrize("lines", list(itertools.permutations(DISAGREEING)))
def test_in_any_order_the_line_with_the_pod_comes_first(lines: tuple[str, ...]) -> None:
    assert first(*lines) == (11, f"/system.slice/docker.service/{POD}/{A}")


def test_a_line_of_the_root_never_comes_before_one_that_says_something() -> None:
    assert first("0::/", "8:pids:/", "4:memory:/system.slice/ssh.service")[0] == 4
    assert first("0::/", "1:name=systemd:/user.slice/user-0.slice/session-1.scope")[0] == 1


def test_a_container_comes_before_its_pod_and_a_pod_before_a_unit() -> None:
    container = f"/kubepods/pod{A[:32]}/{A}"
    assert first("4:memory:/a.service", f"3:cpu:/kubepods/pod{A[:32]}")[0] == 3
    assert first(f"4:memory:/kubepods/pod{A[:32]}", f"3:cpu:/docker/{A}")[0] == 3
    assert first(f"0::/docker/{A}", f"3:cpu:{container}")[0] == 3


def test_among_equals_v2_comes_first_then_pids_then_memory() -> None:
    lines = [f"{at}:{name}:/docker/{A}" for at, name in [(2, "cpu"), (3, "memory"), (9, "x,pids")]]
    found = parse_process_cgroups("\n".join([*lines, f"0::/docker/{A}"]).encode())
    assert [cgroup.hierarchy for cgroup in found] == [0, 9, 3, 2]


def test_paths_keep_colons_spaces_and_bytes_that_are_not_utf8() -> None:
    (found,) = parse_process_cgroups(b"0::/a:b c\xff\n")
    assert (found.controllers, found.path) == ("", "/a:b c\udcff")


def test_a_removed_cgroup_keeps_its_path() -> None:
    (found,) = parse_process_cgroups(b"0::/system.slice/a.service (deleted)\n")
    assert found.path == "/system.slice/a.service"
    assert found.reference.unit == "a.service"


@given(st.binary(max_size=200))
def test_odd_lines_are_skipped(raw: bytes) -> None:
    found = parse_process_cgroups(raw + b"\n0::/last\n")
    assert (0, "", "/last") in [cgroup[:3] for cgroup in found]


def test_a_process_that_is_not_there_is_an_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError, match="no process 42"):
        cgroups_of(42, tmp_path)


def test_this_process_has_a_line_in_every_hierarchy() -> None:
    found = cgroups_of(os.getpid())
    assert len({cgroup.hierarchy for cgroup in found}) == len(found) > 0
    assert all(isinstance(cgroup.reference.kind, ReferenceKind) for cgroup in found)
