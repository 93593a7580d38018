# SPDX-License-Identifier: Apache-2.0
"""``struct held`` records of processes → what each cgroup's processes hold together."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from cap_exporter.granted import MOST_UIDS
from cap_exporter.model import CgroupKey, Granted
from cap_exporter.sources import layout

#: struct held (bpf/cap_checks.h).
_HELD: Final = struct.Struct("=6Q4I")

SIZE: Final = _HELD.size

_HIERARCHY_MASK: Final = 3


def read_held(records: bytes, hierarchy_ids: Sequence[int]) -> dict[CgroupKey, Granted]:
    """Any number of records, united by cgroup. An incomplete last record is left out.

    hierarchy_ids: by ``enum hierarchy``, as in the configuration.
    """
    found: dict[int, list[tuple[int, ...]]] = {}
    whole = len(records) - len(records) % SIZE
    for record in _HELD.iter_unpack(memoryview(records)[:whole]):
        found.setdefault(record[0], []).append(record)
    return {
        CgroupKey(
            hierarchy_ids[min(key >> layout.KEY_HIERARCHY_SHIFT & _HIERARCHY_MASK, 2)],
            key >> layout.KEY_CGROUP_SHIFT,
        ): _united(of)
        for key, of in found.items()
    }


def _united(records: Sequence[tuple[int, ...]]) -> Granted:
    bounding = permitted = effective = ambient = inheritable = 0
    uids = set()
    no_new_privs, host = True, False
    for record in records:
        bounding |= record[1]
        permitted |= record[2]
        effective |= record[3]
        ambient |= record[4]
        inheritable |= record[5]
        uids.add(record[7])
        no_new_privs &= bool(record[8] & layout.HELD_NO_NEW_PRIVS)
        host |= bool(record[8] & layout.HELD_HOST_USER_NS)
    return Granted(
        bounding,
        permitted,
        effective,
        ambient,
        inheritable,
        tuple(sorted(uids)[:MOST_UIDS]),
        no_new_privs,
        len(records),
        host,
    )
