# SPDX-License-Identifier: Apache-2.0
"""The table tells the truth about what ran."""

from __future__ import annotations

from tests.vm.kernels import find
from tests.vm.matrix import Cell, Result, cells, closing_line, read_junit, table

REPORT = """<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="tests.kernel.test_a" name="test_good"/>
<testcase classname="tests.kernel.test_a" name="test_bad"><failure message="no"/></testcase>
<testcase classname="tests.kernel.test_a" name="test_broken"><error message="no"/></testcase>
<testcase classname="tests.kernel.test_a" name="test_other"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def test_failures_and_errors_are_named_and_skips_have_their_reason() -> None:
    assert read_junit(REPORT) == (
        1,
        ["kernel.test_a.test_bad", "kernel.test_a.test_broken"],
        ["kernel.test_a.test_other: why"],
    )


def test_each_way_that_a_kernel_must_offer_has_a_line_of_its_own() -> None:
    kernel = find("7")
    forced = [cell.attach for cell in cells([kernel]) if cell.attach != "auto"]
    assert forced == ["tp_btf", "fexit", "kprobe"]


def test_a_line_without_a_passed_test_is_not_good() -> None:
    assert not Result(Cell(find("6.1")), skipped=7).good


def test_the_table_names_what_failed_where() -> None:
    results = [
        Result(Cell(find("6.1"), attach="fexit"), release="6.1.0-56-amd64", passed=3),
        Result(Cell(find("7"), cgroups="v1"), failed=("kernel.test_a.test_bad",), passed=2),
    ]
    lines = table(results).splitlines()
    assert lines[1].split()[:6] == ["6.1.0-56-amd64", "v2", "-", "libbpf", "fexit", "3"]
    assert lines[-1] == "failed on 7 v1 - libbpf auto: kernel.test_a.test_bad"
    assert closing_line(results) == "5 passed, 1 failed, 0 skipped"
