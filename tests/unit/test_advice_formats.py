# SPDX-License-Identifier: Apache-2.0
"""What advice writes for systemd and Compose is taken by systemd, and valid by Compose's schema,
whatever units and containers are called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cap_exporter.capabilities import KNOWN
from cap_exporter.profiles.advice import advise
from cap_exporter.profiles.formats import compose, systemd
from cap_exporter.profiles.merge import by_workload
from tests.unit.test_advice import granted, profile

EVIL = 'x\n[Service]\nExecStart=/bin/false\x1b[31m\u202e"\\'

USED: list[dict[str, Any]] = [
    {},
    {"used": {"CAP_NET_BIND_SERVICE": 3}},
    {"used": dict.fromkeys(KNOWN, 1), "asked_by": {"CAP_CHOWN": [EVIL]}},
    {"used": {"CAP_NET_RAW": 1}, "granted": granted(uids=[101])},
    {"denied": {"CAP_SYSLOG": 2}, "asked_by": {"CAP_SYSLOG": [EVIL]}},
]


def advices(container: str, **more: Any) -> list[dict[str, Any]]:
    """As the command makes them: one profile a name."""
    one = profile(container=container, namespace="", pod="", workload="", workload_kind="")
    return [advise(merged) for merged in by_workload([{**one, "declared": None, **more}])]


def verify(folder: Path, unit: str, drop_in: str) -> str:
    """What systemd says of the unit with this drop-in."""
    path = folder / unit
    path.write_text("[Service]\nType=oneshot\nExecStart=/bin/true\nUser=daemon\n")
    (folder / f"{unit}.d").mkdir(exist_ok=True)
    (folder / f"{unit}.d" / "capabilities.conf").write_text(drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")


@pytest.mark.needs("systemd-analyze")
class TestSystemd:
    @pytest.mark.parametrize("used", USED)
    def test_systemd_takes_the_drop_in(self, tmp_path: Path, used: dict[str, Any]) -> None:
        text = systemd(advices("web.service", **used))
        assert verify(tmp_path, "web.service", text) == ""

    @pytest.mark.parametrize(
        "unit", ["getty@tty1.service", r"dev-disk\x2dby.service", "a.b_c-1.service"]
    )
    def test_odd_names(self, tmp_path: Path, unit: str) -> None:
        text = systemd(advices(unit, **USED[2]))
        assert text.startswith(f"# /etc/systemd/system/{unit}.d/capabilities.conf\n")
        assert verify(tmp_path, unit, text) == ""

    def test_a_name_stays_in_its_comment(self, tmp_path: Path) -> None:
        text = systemd(advices(f"{EVIL}.service", **USED[2]))
        assert verify(tmp_path, "evil.service", text) == ""
        assert [line for line in text.splitlines() if not line.startswith("#")] == [
            "[Service]",
            f"CapabilityBoundingSet={' '.join(KNOWN)}",
        ]

    def test_systemd_reads_the_drop_in_at_all(self, tmp_path: Path) -> None:
        text = systemd(advices("web.service", **USED[1]))
        wrong = text.replace("CapabilityBoundingSet=", "CapabilityBoundingSt=")
        assert "CapabilityBoundingSt" in verify(tmp_path, "web.service", wrong)

    def test_systemd_knows_the_names(self) -> None:
        # Of a name that it does not know, it says nothing when it reads a unit.
        done = subprocess.run(
            ["systemd-analyze", "capability"], capture_output=True, text=True, check=True
        )
        known = [line.split()[0].upper() for line in done.stdout.splitlines()[1:] if line.strip()]
        assert known[: len(KNOWN)] == list(KNOWN)


def check(folder: Path, text: str) -> tuple[int, str]:
    """By the schema of the Compose specification."""
    path = folder / "compose.yaml"
    path.write_text(text)
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "check-jsonschema", "--builtin-schema"),
            *("vendor.compose-spec", path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


class TestCompose:
    def test_every_service_is_valid_and_there(self, tmp_path: Path) -> None:
        names = ["web", "web", "web-2", "getty@tty1.service", EVIL, "", "ö", "true", "007"]
        several = [
            one
            for number, name in enumerate(names)
            for one in advices(name, **USED[number % len(USED)])
        ]
        text = compose(several)
        assert check(tmp_path, text)[0] == 0
        services = yaml.safe_load(text)["services"]
        assert len(services) == len(names)
        assert {"web", "web-2", "web-2-2", "getty-tty1.service"} <= set(services)
        assert all(service["cap_drop"] == ["ALL"] for service in services.values())

    def test_the_schema_refuses_what_is_wrong(self, tmp_path: Path) -> None:
        text = compose(advices("web", **USED[1]))
        status, words = check(tmp_path, text.replace("cap_add:", "cap_ad:"))
        assert status == 1
        assert "cap_ad" in words
