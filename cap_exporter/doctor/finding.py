# SPDX-License-Identifier: Apache-2.0
"""What one look at the host says."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    OK = "ok"
    LIMITED = "limited"
    """Works, with less than there could be."""
    FAILED = "failed"
    INFO = "info"
    """Worth knowing, neither good nor bad."""


class Finding(NamedTuple):
    name: str
    """For programs: stays the same, e.g. ``btf`` or ``attach.tp_btf``."""
    title: str
    status: Status
    detail: str
    remedy: str = ""
    """What to do, where it is not fine."""
    command: str = ""
    """What to type for that, where it is a command."""
