# SPDX-License-Identifier: Apache-2.0
"""cap_exporter/sources/layout.py says what bpf/cap_checks.h says."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from cap_exporter.sources import held, layout

pytestmark = pytest.mark.needs("clang")

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "text_range": layout.TextRange,
    "stack_layout": layout.StackLayout,
    "cap_config": layout.Config,
    "cap_state": layout.State,
    "cgroup_event_head": layout.CgroupEventHead,
    "event_process": layout.EventProcess,
    "check_event": layout.CheckEvent,
    "cgroup_note": layout.CgroupNote,
    "held": layout.Held,
    "calibration": layout.Calibration,
}

CONSTANTS = {
    "CAP_LAYOUT_VERSION": layout.LAYOUT_VERSION,
    "CAP_KEY_DENIED": layout.KEY_DENIED,
    "CAP_KEY_OTHER_NS": layout.KEY_OTHER_NS,
    "CAP_KEY_CLASS_SHIFT": layout.KEY_CLASS_SHIFT,
    "CAP_KEY_HIERARCHY_SHIFT": layout.KEY_HIERARCHY_SHIFT,
    "CAP_KEY_CGROUP_SHIFT": layout.KEY_CGROUP_SHIFT,
    "CAP_KEY_KINDS": layout.KEY_KINDS,
    "CAP_SLOT_EMPTY": layout.SLOT_EMPTY,
    "CAP_SLOT_RETIRED": layout.SLOT_RETIRED,
    "CAP_BUCKET_SLOTS": layout.BUCKET_SLOTS,
    "sizeof(struct slot)": layout.SLOT_BYTES,
    "CAP_NOAUDIT_CALLERS": layout.NOAUDIT_CALLERS,
    "CAP_UNSURE_CALLERS": layout.UNSURE_CALLERS,
    "CAP_STACK_LAYOUTS": layout.STACK_LAYOUTS,
    "EVENTS_DENIED": layout.EVENTS_DENIED,
    "EVENTS_ALLOWED": layout.EVENTS_ALLOWED,
    "EVENTS_STACK": layout.EVENTS_STACK,
    "CGROUP_ENTERED": layout.ENTERED,
    "HELD_NO_NEW_PRIVS": layout.HELD_NO_NEW_PRIVS,
    "HELD_HOST_USER_NS": layout.HELD_HOST_USER_NS,
    "sizeof(struct held)": held.SIZE,
    "RANK_OTHER": layout.RANK_OTHER,
    "RANK_NAMED": layout.RANK_NAMED,
    "RANK_CONTAINER": layout.RANK_CONTAINER,
    **{f"CLASS_{c.name}": i for i, c in enumerate(layout.CLASSES)},
    **{f"CGROUP_{c.name}": i for i, c in layout.CHANGES.items()},
}


def test_sizes_offsets_and_constants_are_those_of_the_header(tmp_path: Path) -> None:
    lines = ["#include <stddef.h>", '#include "vmlinux.h"', '#include "cap_checks.h"']
    for name, structure in STRUCTS.items():
        size = ctypes.sizeof(structure)
        lines.append(f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");')
        for field, *_ in structure._fields_:
            offset = getattr(structure, field).offset
            lines.append(
                f'_Static_assert(offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");'
            )
    for name, value in CONSTANTS.items():
        lines.append(f'_Static_assert({name} == {value}, "{name}");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines))
    bpf = Path(__file__).parent.parent.parent / "bpf"
    command = ["clang", "-target", "bpf", "-fsyntax-only", f"-I{bpf}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
