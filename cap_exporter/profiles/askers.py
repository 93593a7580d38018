# SPDX-License-Identifier: Apache-2.0
"""Who asked for a capability: executables and system calls of a container's events."""

from __future__ import annotations

import threading
from collections import OrderedDict

from cap_exporter.capabilities import name_of
from cap_exporter.labels import label_value
from cap_exporter.model import Event, Identity
from cap_exporter.syscalls import name_of as syscall_name

#: Containers that are remembered; the longest silent go first.
MOST_CONTAINERS = 2000

#: Executables and system calls per container and capability.
MOST_ASKERS = 8


class Askers:
    """One thread adds, any thread reads."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, ...], dict[str, dict[str, None]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, event: Event, identity: Identity) -> None:
        who = label_value(event.process.executable or event.process.comm)
        if event.syscall is not None:
            who += f" ({syscall_name(event.syscall)})"
        key = _key(identity)
        with self._lock:
            of = self._found.setdefault(key, {})
            self._found.move_to_end(key)
            askers = of.setdefault(name_of(event.check.capability), {})
            if len(askers) < MOST_ASKERS:
                askers[who] = None
            if len(self._found) > MOST_CONTAINERS:
                self._found.popitem(last=False)

    def of(self, identity: Identity) -> dict[str, list[str]]:
        """By capability: ``/usr/bin/dmesg (syslog)``, the first ones seen."""
        with self._lock:
            return {name: list(of) for name, of in self._found.get(_key(identity), {}).items()}


def _key(identity: Identity) -> tuple[str, ...]:
    return (
        identity.namespace,
        identity.pod,
        identity.container,
        identity.container_id,
        identity.pod_uid,
    )
