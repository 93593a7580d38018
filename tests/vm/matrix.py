# SPDX-License-Identifier: Apache-2.0
"""Runs tests/kernel on each kernel, by each way to attach, and prints what passed.

A line of the table is one boot. Exit status 0 where every line passed. The tests learn which way
they are to take from CAP_EXPORTER_SOURCE and CAP_EXPORTER_ATTACH, as the program itself does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.archive import ArchiveError
from tests.vm.kernels import KERNELS, Kernel, UnknownKernel, default_cache, fetch, find
from tests.vm.machine import Boot, Cgroups, MachineError, run
from tests.vm.root import fetch_root
from tests.vm.run import NATIVE, ROOT, environment, needed_directories

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Left out unless it is named: -rt differs from its sibling in preemption only, which the
#: ``full`` lines have.
DEFAULT = tuple(kernel for kernel in KERNELS if not kernel.variant)

AUTO = "auto"

#: What runs in each machine.
TESTS = ("tests/kernel", "tests/vm/inside")


@dataclass(frozen=True, slots=True)
class Cell:
    """One line: a kernel booted in one way, and one way to count on it."""

    kernel: Kernel
    source: str = "libbpf"
    attach: str = AUTO
    cgroups: Cgroups = "v2"
    preempt: str = ""
    """For the kernel's command line; empty: as it was built."""
    architecture: str = NATIVE


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a cell. Times in seconds."""

    cell: Cell
    release: str = ""
    passed: int = 0
    failed: Sequence[str] = ()
    """Names of tests, or what else went wrong."""
    skipped: int = 0
    up: float = 0.0
    all: float = 0.0
    memory_mib: int = 0
    skip_reasons: Sequence[str] = field(default=(), compare=False)
    not_run: str = ""
    """Why this machine could not run it at all."""

    @property
    def good(self) -> bool:
        return self.passed > 0 and not self.failed and not self.not_run


def cells(kernels: Iterable[Kernel], architecture: str = NATIVE) -> Iterator[Cell]:
    """Each way by itself on pure cgroup v2, then what differs by layout and by preemption. Of
    another architecture than this machine's only what depends on it."""
    for kernel in kernels:
        if architecture != NATIVE:
            for way in kernel.ways_on(architecture):
                yield Cell(kernel, attach=way, architecture=architecture)
            continue
        for way in kernel.ways_on(architecture):
            yield Cell(kernel, attach=way)
        yield Cell(kernel, source="bcc")
        yield Cell(kernel, cgroups="v1")
        yield Cell(kernel, cgroups="hybrid")
        if kernel.dynamic_preemption:
            yield Cell(kernel, preempt="full")


#: What every change runs: the way in that most nodes have, and BCC with headers as its own.
CI = (Cell(find("6.1"), attach="fexit"), Cell(find("6.12"), source="bcc"))
CI_TESTS = ("tests/vm/inside/test_ways.py", "tests/vm/inside/test_headers.py")


def run_cell(
    cell: Cell, cache: Path, tests: Sequence[str], timeout: float, console: Path | None = None
) -> Result:
    """Boot and test. What goes wrong is in the result, nothing is raised."""
    try:
        tree = fetch(cell.kernel, cache, cell.architecture)
        foreign = cell.architecture != NATIVE
        root = fetch_root(cache, cell.architecture) if foreign else Path("/")
    except ArchiveError as error:
        return Result(cell, not_run=f"no kernel: {error}")
    more = {"CAP_EXPORTER_SOURCE": cell.source}
    if cell.attach != AUTO:
        more["CAP_EXPORTER_ATTACH"] = cell.attach
    with tempfile.TemporaryDirectory(prefix="cap-exporter-result-") as temporary:
        exchange = Path(temporary)
        try:
            outcome = run(
                Boot(
                    tree,
                    root=root,
                    cgroups=cell.cgroups,
                    cpus=2,
                    parameters=(f"preempt={cell.preempt}",) if cell.preempt else (),
                ),
                [
                    # Emulated, and perhaps beside others: what takes 2 s elsewhere may take 100.
                    *("python3", "-m", "pytest", "-q", "--tb=short", "-o", "timeout=500"),
                    *("--junitxml=/run/vm/exchange/junit.xml", *tests),
                ],
                directory=ROOT,
                timeout=timeout,
                environment=environment(ROOT, more, foreign=foreign),
                needed=needed_directories(ROOT, foreign=foreign),
                console=console,
                exchange=exchange,
            )
        except MachineError as error:
            return Result(cell, release=tree.release, not_run=str(error))
        report = exchange / "junit.xml"
        xml = report.read_text() if report.exists() else None
    if xml is None:
        why = f"pytest did not come to its end (exit status {outcome.status})"
        return Result(cell, release=tree.release, not_run=why)
    passed, failed, reasons = read_junit(xml)
    problems = list(failed)
    if outcome.status and not failed:
        problems.append(f"pytest ended with exit status {outcome.status}")
    problems += [f"the kernel complained: {line}" for line in outcome.complaints]
    if not passed and not problems:
        problems.append("no test ran")
    return Result(
        cell,
        release=tree.release,
        passed=passed,
        failed=problems,
        skipped=len(reasons),
        up=outcome.boot_seconds,
        all=outcome.seconds,
        memory_mib=outcome.memory_mib,
        skip_reasons=reasons,
    )


def read_junit(xml: str | None) -> tuple[int, list[str], list[str]]:
    """Passed, names of the failed, reasons of the skipped, from pytest's JUnit report."""
    passed, failed, reasons = 0, [], []
    if xml is None:
        return 0, [], []
    for case in ET.fromstring(xml).iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}".removeprefix("tests.")
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif skipped is not None:
            reasons.append(f"{name}: {skipped.get('message', '')}")
        else:
            passed += 1
    return passed, failed, reasons


def table(results: Sequence[Result]) -> str:
    """One line a boot; below it the failed by name and the reasons of skips."""
    head = ("kernel", "cgroups", "preempt", "source", "attach")
    numbers = ("passed", "failed", "skipped", "up s", "all s", "MiB")
    rows = [
        (
            *(result.release or result.cell.kernel.name, result.cell.cgroups),
            *(result.cell.preempt or "-", result.cell.source, result.cell.attach),
            *(str(result.passed), str(len(result.failed)), str(result.skipped)),
            *(f"{result.up:.1f}", f"{result.all:.1f}", str(result.memory_mib)),
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*((*head, *numbers), *rows), strict=True)]
    lines = []
    for row in ((*head, *numbers), *rows):
        texts = [
            text.ljust(width) if at < len(head) else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    for result, row in zip(results, rows, strict=True):
        if result.not_run:
            lines.append(f"\nnot run on {' '.join(row[: len(head)])}: {result.not_run}")
        lines += [f"\nfailed on {' '.join(row[: len(head)])}: {name}" for name in result.failed]
    reasons = sorted({reason for result in results for reason in result.skip_reasons})
    lines += [f"\nskipped somewhere: {reason}" for reason in reasons]
    return "\n".join(lines)


def closing_line(results: Sequence[Result]) -> str:
    """What tells whoever reads only the last line; of tests, not of boots."""
    passed = sum(result.passed for result in results)
    failed = sum(len(result.failed) for result in results)
    return f"{passed} passed, {failed} failed, {sum(r.skipped for r in results)} skipped"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.matrix", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all but -rt")
    parser.add_argument("--source", help="only lines with this source")
    parser.add_argument("--attach", help="only lines with this way to attach; auto: none forced")
    parser.add_argument("--cgroups", help="only lines with this layout")
    parser.add_argument(
        "--architecture",
        action="append",
        choices=("amd64", "arm64"),
        help="may be given more than once; default: this machine's",
    )
    parser.add_argument(
        "--tests", nargs="+", default=["tests/kernel", "tests/vm/inside"], metavar="PATH"
    )
    parser.add_argument(
        "--ci",
        action="store_true",
        help="two kernels, each in one way, and only the tests of ways; what this machine can't "
        "boot or fetch is listed and is no failure",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds a line; default 600")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args(arguments)
    if asked.ci:
        results = [run_cell(cell, asked.cache, CI_TESTS, asked.timeout) for cell in CI]
        return _report(results, ci=True)
    try:
        kernels = [find(name) for name in asked.kernels] or list(DEFAULT)
    except UnknownKernel as error:
        print(error, file=sys.stderr)
        return 2
    wanted = [
        cell
        for architecture in asked.architecture or [NATIVE]
        for cell in cells(kernels, architecture)
        if asked.source in {None, cell.source}
        and asked.attach in {None, cell.attach}
        and asked.cgroups in {None, cell.cgroups}
    ]
    started = time.monotonic()
    results = []
    for cell in wanted:
        print(
            f"--- Linux {cell.kernel.name}, cgroups {cell.cgroups}, {cell.source}, "
            f"attach {cell.attach}{', preempt ' + cell.preempt if cell.preempt else ''}",
            flush=True,
        )
        results.append(run_cell(cell, asked.cache, asked.tests, asked.timeout))
        sys.stdout.flush()
    print(f"\n{len(results)} boots, {time.monotonic() - started:.0f} s")
    return _report(results)


def _report(results: Sequence[Result], *, ci: bool = False) -> int:
    """Exit status."""
    print(f"\n{table(results)}\n")
    print(closing_line(results))
    fine = [result.good or (ci and bool(result.not_run)) for result in results]
    return 0 if fine and all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
