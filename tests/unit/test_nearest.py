# SPDX-License-Identifier: Apache-2.0
"""What is said where a name is nobody's."""

from __future__ import annotations

import pytest

from cap_exporter.cli.nearest import no_such, unknown_names
from cap_exporter.cli.progress import duration, size


def container(pod: str, name: str = "web", **more: str) -> dict[str, str]:
    return {
        "namespace": "shop",
        "pod": pod,
        "container": name,
        "container_id": "abc123" + "0" * 58,
        "workload_kind": "Deployment",
        "workload": "api",
        **more,
    }


THERE = [container("xwing"), container("api-1"), container("", "(host)", namespace="")]


def test_the_nearest_name_and_what_there_is() -> None:
    assert unknown_names(THERE, pod=("wxing",)) == [
        "There is no pod 'wxing'; did you mean xwing? There are: api-1, xwing."
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"pod": ("xwing",)},
        {"namespace": ("shop",)},
        {"container": ("(host)",)},
        {"container": ("abc1",)},
        {"workload": ("deployment/api",)},
        {"workload": ("shop/Deployment/api",)},
        {},
    ],
    ids=str,
)
def test_names_that_are_there_are_no_mistake(asked: dict[str, tuple[str, ...]]) -> None:
    assert unknown_names(THERE, **asked) == []


def test_of_many_names_the_nearest_are_shown() -> None:
    known = [f"web-{number}" for number in range(100)] + ["cart"]
    text = no_such("pod", "carrt", known)
    assert "did you mean cart?" in text
    assert text.endswith(" and 93 more.")
    assert len(text) < 200


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in no_such("container", "\x1b[2J", ["\x1b[31mred"])


def test_times_and_sizes_of_a_progress_line() -> None:
    assert [duration(s) for s in (0, 59.9, 187, 3600)] == ["0 s", "59 s", "3:07", "1:00:00"]
    assert [size(n) for n in (0, 731, 1_234_000, 2e10)] == ["0 B", "731 B", "1.2 MB", "20.0 GB"]
