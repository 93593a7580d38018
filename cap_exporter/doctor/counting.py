# SPDX-License-Identifier: Apache-2.0
"""Whether checks can be counted: every way to attach is tried, for real."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.doctor import rights
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.model import SourceError
from cap_exporter.sources import diagnosis

#: Name of the finding that tells whether counting works.
VERDICT: Final = "counting"

#: Seconds: the verifier reads the programs on each loading, and a small machine takes its time.
_LOADING: Final = 30.0
#: Seconds for BCC, which compiles first.
_COMPILING: Final = 180.0

#: Room for counters while trying: as little as will do.
_SLOTS: Final = 1024

_NOT_TRIED: Final = "not tried: see the capabilities above"


class Counting:
    """The ways are tried one by one, and what they told makes the verdict."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._usable = ""
        """The first way that loses nothing."""
        self._lossy: dict[str, Finding] = {}
        """Ways that lose checks, and what they say of events."""
        self._bcc_works = False
        self._bcc_tried = ""
        """Began to compile, and has not ended."""

    def checks(self) -> tuple[Check, ...]:
        if not self._wanted.live:
            return (Check(VERDICT, "counting", _recording),)
        from cap_exporter.sources.libbpf import WAYS

        ways = [
            Check(
                f"attach.{way.name}",
                f"attach by {way.name}",
                partial(self._way, way.name),
                _LOADING,
            )
            for way in WAYS
            if self._wanted.attach in (None, way.name) and self._wanted.source != "bcc"
        ]
        return (
            *ways,
            Check("bcc", "bcc source", self._bcc, _COMPILING),
            Check(VERDICT, "counting", self._verdict),
        )

    def _way(self, name: str, wanted: Wanted) -> Iterator[Finding]:
        from cap_exporter.sources.libbpf import LibbpfSource

        slug, title = f"attach.{name}", f"attach by {name}"
        if diagnosis.missing_capabilities(diagnosis.effective_capabilities()):
            yield Finding(slug, title, Status.INFO, _NOT_TRIED)
            return
        source = LibbpfSource(
            discover(cgroup_root=wanted.cgroup_root),
            attach=name,
            btf=wanted.btf,
            slots=_SLOTS,
            events=wanted.events,
        )
        with _said_by_this_thread("cap_exporter.sources.libbpf") as said:
            try:
                source.open()
                source.drain()
            except SourceError as error:
                reason = str(error).partition(":\n")[2].strip().removeprefix(f"{name}: ")
                if wanted.attach is None:
                    # Others may work: the verdict tells.
                    yield Finding(slug, title, Status.INFO, reason or str(error))
                else:
                    remedy = "without --attach the first way that works is taken"
                    yield Finding(slug, title, Status.FAILED, reason or str(error), remedy)
                return
            finally:
                source.close()
        if source.lossy:
            self._lossy.setdefault(name, _events(wanted, said))
            yield Finding(slug, title, Status.LIMITED, f"works, but {source.lossy}", _WHAT_IT_TAKES)
        elif self._usable:
            yield Finding(slug, title, Status.OK, "works too")
        else:
            self._usable = name
            yield Finding(slug, title, Status.OK, "works and would be used")
            yield _events(wanted, said)

    def _bcc(self, wanted: Wanted) -> Iterator[Finding]:
        from cap_exporter.sources.bcc_loader import DIST_PACKAGES

        title = "bcc source"
        place = next((p for p in DIST_PACKAGES if (p / "bcc" / "libbcc.py").is_file()), None)
        # What would be used is worth the time that compiling takes.
        needed = wanted.source == "bcc" or (
            wanted.source == "auto" and not (self._usable or self._lossy)
        )
        if not place:
            yield Finding(
                "bcc",
                title,
                Status.FAILED if wanted.source == "bcc" else Status.INFO,
                "not installed" + ("" if needed else "; not needed"),
                *(
                    ("Debian, Ubuntu: python3-bpfcc (PyPI's bcc is another thing)", _INSTALL_BCC)
                    if needed
                    else ("", "")
                ),
            )
        elif diagnosis.missing_capabilities(diagnosis.effective_capabilities()):
            yield Finding("bcc", title, Status.INFO, f"BCC is in {place}; {_NOT_TRIED}")
        elif not (wanted.deep or needed):
            yield from self._bcc_at(place, title)
        else:
            self._bcc_tried = f"; BCC was not ready within {_COMPILING:g} s"
            yield self._compile(wanted, title)
            self._bcc_tried = ""

    def _bcc_at(self, place: Path, title: str) -> Iterator[Finding]:
        import platform

        from cap_exporter.sources.bcc_loader import why_no_headers

        btf = Path("/sys/kernel/btf/vmlinux").exists()
        problem = "" if btf else why_no_headers(Path("/lib/modules") / platform.release())
        if problem:
            yield Finding(
                "bcc", title, Status.INFO, f"BCC is in {place}, but {problem}; not needed"
            )
        else:
            yield Finding(
                "bcc",
                title,
                Status.INFO,
                f"BCC is in {place}; not needed, so not tried",
                "to try it too:",
                "cap-exporter doctor --deep",
            )

    def _compile(self, wanted: Wanted, title: str) -> Finding:
        from cap_exporter.sources.bcc import BccSource

        source = BccSource(
            discover(cgroup_root=wanted.cgroup_root),
            attach=wanted.attach,
            btf=wanted.btf,
            slots=_SLOTS,
        )
        try:
            info = source.open()
            source.drain()
        except SourceError as error:
            return Finding("bcc", title, Status.LIMITED, str(error), _WHAT_IT_TAKES)
        finally:
            source.close()
        self._bcc_works = True
        return Finding("bcc", title, Status.OK, f"works, attached by {info.attach}")

    def _verdict(self, wanted: Wanted) -> Iterator[Finding]:
        title = "counting"
        missing = diagnosis.missing_capabilities(diagnosis.effective_capabilities())
        if self._usable:
            yield Finding(VERDICT, title, Status.OK, f"works: libbpf, attached by {self._usable}")
        elif missing:
            yield Finding(
                VERDICT,
                title,
                Status.FAILED,
                f"cannot be tried: {' and '.join(missing)} missing",
                *rights.how_to_get(),
            )
        elif self._bcc_works and not self._lossy and wanted.source != "libbpf":
            yield Finding(VERDICT, title, Status.OK, "works: bcc")
        elif self._lossy:
            way, events = next(iter(self._lossy.items()))
            yield events
            yield Finding(
                VERDICT,
                title,
                Status.LIMITED,
                f"works: libbpf, attached by {way}; how many checks were missed is published",
                "boot with preempt=none or preempt=voluntary, or use a kernel with kprobes",
            )
        else:
            yield Finding(
                VERDICT,
                title,
                Status.FAILED,
                f"no way to attach works{self._bcc_tried}",
                "the reasons are above: mend one of them",
            )


_WHAT_IT_TAKES: Final = "docs/kernels.md says what each way takes, and what to choose"

_INSTALL_BCC: Final = "apt-get install python3-bpfcc"


def _events(wanted: Wanted, said: Sequence[str]) -> Finding:
    title = "events"
    # The source goes on without them, and says so.
    less = [line for line in said if line.startswith("checks are counted, but")]
    if less:
        return Finding(
            "events",
            title,
            Status.LIMITED,
            less[0],
            "counts stay exact; a newer kernel takes all programs (docs/kernels.md)",
        )
    if wanted.events is None:
        return Finding("events", title, Status.INFO, "turned off (--event-verdicts none)")
    return Finding(
        "events", title, Status.OK, "the kernel takes the programs for them, and what reads grants"
    )


@contextmanager
def _said_by_this_thread(logger: str) -> Iterator[list[str]]:
    """Warnings of this logger while it is entered. They are shown only where all is (debug)."""
    said: list[str] = []
    thread = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                said.append(record.getMessage())

    log, keep = logging.getLogger(logger), Keep(logging.WARNING)
    before, log.propagate = log.level, log.isEnabledFor(logging.DEBUG)
    log.addHandler(keep)
    log.setLevel(min(log.getEffectiveLevel(), logging.WARNING))
    try:
        yield said
    finally:
        log.removeHandler(keep)
        log.propagate = True
        log.setLevel(before)


def _recording(wanted: Wanted) -> Iterator[Finding]:
    from cap_exporter.sources.replay import ReplaySource

    path = Path(wanted.source.removeprefix("replay:"))
    source = ReplaySource(path)
    try:
        source.open()
    except SourceError as error:
        yield Finding(
            VERDICT,
            "counting",
            Status.FAILED,
            str(error),
            "",
            f"cap-exporter record {path} --for 30s",
        )
        return
    finally:
        source.close()
    yield Finding(VERDICT, "counting", Status.OK, f"plays the recording {path}")
