# SPDX-License-Identifier: Apache-2.0
"""Following pods: time to take 5,000 watch events, and memory with 500 and 5,000 pods, as JSON of
the size that real ones have (8 KB, most of it managedFields).

    python -m benchmarks.bench_pods
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.results import report
from cap_exporter.pods.fields import pod_from_json
from cap_exporter.pods.store import PodStore
from tests.kube.objects import pod

EVENTS = 5000
PADDING = 6500

_MEMORY = """
import sys, json, gc
from cap_exporter.pods.fields import pod_from_json
from cap_exporter.pods.store import PodStore
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
store = PodStore()
lines = sys.stdin
first = next(lines)
store.apply(pod_from_json(json.loads(first)))
gc.collect()
before = resident()
for line in lines:
    store.apply(pod_from_json(json.loads(line)))
gc.collect()
print(resident() - before, len(store.pods()))
"""


def pod_line(number: int) -> bytes:
    ids = {name: secrets.token_hex(32) for name in ("app", "sidecar")}
    document = pod(
        f"workload-{number // 10}-5d4f8c7b9-{number:05}",
        f"namespace-{number % 30}",
        ids,
        owner=("ReplicaSet", f"workload-{number // 10}-5d4f8c7b9"),
        labels={"pod-template-hash": "5d4f8c7b9", "app": "x"},
        padding=PADDING,
    )
    return json.dumps(document).encode()


def memory_of(pods: Sequence[bytes]) -> int:
    """Bytes that a process grows by when it follows these pods, after the first."""
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY],
        input=b"\n".join(pods) + b"\n",
        capture_output=True,
        check=True,
    )
    grown, held = map(int, done.stdout.split())
    assert held == len(pods)
    return grown


def main() -> None:
    lines = [pod_line(number) for number in range(EVENTS)]
    store = PodStore()
    began = time.perf_counter()
    for line in lines:
        store.apply(pod_from_json(json.loads(line)))
    taken = time.perf_counter() - began
    report("pods", f"taking {EVENTS:,} events of {len(lines[0]) / 1000:.1f} KB", taken * 1e3, "ms")
    report("pods", "… each", taken / EVENTS * 1e6, "µs")
    for count in (500, EVENTS):
        grown = memory_of(lines[:count])
        at_most = 9.0 if count == 500 else None
        report(
            "pods", f"memory of {count:,} pods, two containers each", grown / 2**20, "MB", at_most
        )


if __name__ == "__main__":
    main()
