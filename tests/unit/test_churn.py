# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go by the thousand leave nothing behind: no series, no names, no memory."""

from __future__ import annotations

import gc
import tracemalloc

from cap_exporter.identities import Identities
from cap_exporter.ledger import Ledger
from cap_exporter.model import CgroupKey, CheckClass, CheckKey, UserNamespace, Verdict
from cap_exporter.pods.fields import pod_from_json
from cap_exporter.pods.store import PodStore
from tests.kube.objects import pod

PER_HOUR = 1000
HOUR = 3600.0


class Paths(dict[CgroupKey, str]):
    def path(self, key: CgroupKey) -> str | None:
        return self.get(key)


def test_a_thousand_pods_an_hour_do_not_add_up() -> None:
    now = [0.0]
    store = PodStore(retention=600, monotonic=lambda: now[0])
    ledger = Ledger(retention=600)
    paths = Paths()
    identities = Identities(paths, store)
    numbers = iter(range(2, 1 << 30))

    def live_and_die() -> None:
        number = next(numbers)
        container_id, uid = f"{number:064x}", f"{number:08x}-0000-0000-0000-000000000000"
        store.apply(pod_from_json(pod(f"job-{number}", "shop", {"app": container_id}, uid=uid)))
        cgroup = CgroupKey(0, number)
        paths[cgroup] = f"/kubepods/pod{uid}/{container_id}"
        key = CheckKey(cgroup, 13, Verdict.ALLOWED, UserNamespace.INIT, CheckClass.MEANINGFUL)
        rows = list(identities.rows([(key, 1)], now[0]))
        ledger.apply([(row.identity, row.key, row.checks) for row in rows], now[0])
        assert rows[0].identity.pod == f"job-{number}"
        store.remove(uid)
        ledger.gone(cgroup, now[0])
        identities.forget([cgroup])
        del paths[cgroup]

    def hour() -> tuple[int, int, int]:
        for _ in range(PER_HOUR):
            live_and_die()
            now[0] += HOUR / PER_HOUR
            ledger.expire(now[0])
            store.expire()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        return len(ledger.snapshot().series), store.size().container_ids, held

    tracemalloc.start()
    try:
        first = hour()
        for _ in range(3):
            last = hour()
    finally:
        tracemalloc.stop()
    # Ten minutes' worth is there at any time: retention.
    assert last[:2] == first[:2]
    assert last[0] <= PER_HOUR / 6 + 1
    assert last[2] < first[2] * 1.1
