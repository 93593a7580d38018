# SPDX-License-Identifier: Apache-2.0
"""What to do when a source cannot work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from cap_exporter.model import SourceError
from cap_exporter.sources.diagnosis import effective_capabilities, missing_capabilities
from cap_exporter.sources.recording import RecordingError


def explain(error: SourceError | PermissionError, typed: Sequence[str]) -> str:
    """For standard error: what is wrong, and the next step. typed: the command line."""
    as_root = f"\nRun it as root: sudo {shlex.join(typed)}" if os.geteuid() != 0 else ""
    if isinstance(error, PermissionError):
        return f"cap-exporter: {error.filename or 'the kernel'}: {error.strerror}.{as_root}"
    if isinstance(error.__cause__, RecordingError):
        text = str(error)
        if "`cap-exporter record" not in text:
            text += "\nWrite one: cap-exporter record FILE --for 30s"
        return f"cap-exporter: {text}"
    missing = missing_capabilities(effective_capabilities())
    if not missing:
        return f"cap-exporter: {error}\n`cap-exporter doctor` tells more about this host."
    # Each way to count says the same of them: once is enough.
    text = f"cap-exporter: counting takes {' and '.join(missing)}, which this process has not."
    names = "BPF, PERFMON, SYSLOG, DAC_READ_SEARCH"
    return (
        f"{text}{as_root}\n"
        f"In a container: securityContext.capabilities.add: [{names}] (docker: --cap-add).\n"
        "`cap-exporter doctor` tells more about this host."
    )
