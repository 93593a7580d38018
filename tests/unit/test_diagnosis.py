# SPDX-License-Identifier: Apache-2.0
"""What the kernel refused is told with its cause."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cap_exporter.sources import diagnosis
from cap_exporter.sources.libbpf_binding import BpfError

ALL = (1 << 41) - 1


def _status(folder: Path, held: int, seccomp: int = 0) -> Path:
    path = folder / "status"
    path.write_text(f"Name:\tx\nCapEff:\t{held:016x}\nSeccomp:\t{seccomp}\n")
    return path


def _lockdown(folder: Path, text: str) -> Path:
    path = folder / "lockdown"
    path.write_text(text)
    return path


def _without(*numbers: int) -> int:
    held = ALL
    for number in numbers:
        held &= ~(1 << number)
    return held


@pytest.mark.parametrize(
    ("held", "seccomp", "lockdown", "said"),
    [
        (_without(21, 38, 39), 0, "[none]", "CAP_BPF and CAP_PERFMON missing"),
        (_without(21, 38), 0, "[none]", "not permitted: CAP_PERFMON missing"),
        (ALL, 2, "[none]", "seccomp"),
        (ALL, 0, "none integrity [confidentiality]", "confidentiality"),
        (ALL, 0, "none [integrity] confidentiality", "not permitted by the kernel"),
    ],
)
def test_a_permission_that_is_missing_is_named(
    tmp_path: Path, held: int, seccomp: int, lockdown: str, said: str
) -> None:
    error = BpfError("load", errno.EPERM)
    text = diagnosis.refusal(error, _status(tmp_path, held, seccomp), _lockdown(tmp_path, lockdown))
    assert said in text


def test_a_withheld_helper_is_lockdown_and_not_a_verifier_s_dump(tmp_path: Path) -> None:
    log = "program of this type cannot use helper bpf_probe_read#4\n"
    text = diagnosis.refusal(
        BpfError("load", errno.EINVAL, log), _status(tmp_path, ALL), tmp_path / "none"
    )
    assert "lockdown" in text
    assert "\n" not in text


def test_the_end_of_the_verifier_s_log_is_kept(tmp_path: Path) -> None:
    log = "\n".join(f"line {number}" for number in range(100))
    text = diagnosis.refusal(
        BpfError("load", errno.EINVAL, log), _status(tmp_path, ALL), tmp_path / "none"
    )
    assert "line 99" in text
    assert "line 50" not in text


def test_sys_admin_stands_for_the_newer_capabilities() -> None:
    assert diagnosis.missing_capabilities(1 << 21) == []


def test_a_status_that_cannot_be_read_is_no_crash(tmp_path: Path) -> None:
    assert diagnosis.effective_capabilities(tmp_path / "missing") == 0
