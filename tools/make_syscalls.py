#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes cap_exporter/syscalls.py from the kernel's user-space headers on this machine.

tools/make_syscalls.py    needs linux-libc-dev (x86_64) for both tables
"""

from __future__ import annotations

import re
from pathlib import Path

TARGET = Path(__file__).parent.parent / "cap_exporter/syscalls.py"
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
#: Newer than the headers of Debian 12; the same numbers on every machine (6.18, syscall.tbl).
NEWER = (
    "cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount "
    "lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat "
    "removexattrat open_tree_attr file_getattr file_setattr"
)
FIRST_NEWER = 451

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""System call names by machine and number. Written by tools/make_syscalls.py from the kernel's
headers (include/uapi/asm-generic/unistd.h for arm64, asm/unistd_64.h for x86_64)."""

from __future__ import annotations

import platform

'''
TAIL = '''

def name_of(number: int, machine: str = platform.machine()) -> str:
    """``syslog``; ``syscall_500`` for one newer than this table."""
    names = _TABLES.get(machine, "").split()
    known = names[number] if 0 <= number < len(names) else "-"
    return known if known != "-" else f"syscall_{number}"
'''


def main() -> None:
    tables = []
    for machine, header in HEADERS.items():
        text = header.read_text()
        numbers = {
            int(number): name
            for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)
            if not name.startswith(("arch_specific", "syscalls"))
        }
        numbers |= dict(enumerate(NEWER.split(), start=FIRST_NEWER))
        words = [numbers.get(n, "-") for n in range(max(numbers) + 1)]
        lines, line = [], ""
        for word in words:
            if len(line) + len(word) > 94:
                lines.append(line.rstrip())
                line = ""
            line += word + " "
        tables.append(f'    "{machine}": """\n' + "\n".join([*lines, line.rstrip()]) + '\n""",')
    body = "#: Names in the order of their numbers, ``-`` where there is none.\n_TABLES = {\n"
    TARGET.write_text(HEAD + body + "\n".join(tables) + "\n}\n" + TAIL)


if __name__ == "__main__":
    main()
