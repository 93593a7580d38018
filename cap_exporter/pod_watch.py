# SPDX-License-Identifier: Apache-2.0
"""The pod watch with its store, its metrics and its notes for /readyz, as the exporter uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cap_exporter.model import Identity
from cap_exporter.pods.api import KubernetesApi
from cap_exporter.pods.store import PodStore
from cap_exporter.pods.watch import PodWatch
from cap_exporter.profiles.profile import Declared


class RunningPodWatch:
    def __init__(self, watch: PodWatch, store: PodStore) -> None:
        self._watch = watch
        self.store = store
        self.collector = PodWatchCollector(watch, store)

    def start(self) -> None:
        """Follow the pods from now on; the API server need not be there yet."""
        self._watch.start()

    def notes(self) -> list[str]:
        """What is missing of the pods; empty while all is well."""
        state = self._watch.state
        if state.synced:
            return []
        return [f"pods: {state.phase}" + (f": {state.message}" if state.message else "")]

    def declared(self, identity: Identity) -> Declared | None:
        """What the API says of a container."""
        if not identity.pod_uid:
            return None
        pod = self.store.by_uid(identity.pod_uid)
        if pod is None:
            return None
        for container in pod.containers:
            if container.name == identity.container:
                return Declared(pod, container)
        return None

    def stop(self) -> None:
        self._watch.stop()


class PodWatchCollector(Collector):
    """cap_exporter_pods and cap_exporter_pod_watch_…"""

    def __init__(self, watch: PodWatch, store: PodStore) -> None:
        self._watch = watch
        self._store = store

    def collect(self) -> Iterator[Metric]:
        state, size = self._watch.state, self._store.size()
        yield GaugeMetricFamily("cap_exporter_pods", "Pods of this node.", value=size.pods)
        yield GaugeMetricFamily(
            "cap_exporter_pod_watch_synced",
            "1 while the known pods are those of the API server.",
            value=state.synced,
        )
        yield GaugeMetricFamily(
            "cap_exporter_pod_watch_last_event_timestamp_seconds",
            "When the API server last sent anything, since the epoch; 0: never.",
            value=state.last_event_time or 0,
        )
        yield CounterMetricFamily(
            "cap_exporter_pod_watch_relists_total",
            "Complete lists of the pods after the first one.",
            value=state.relists,
        )
        errors = CounterMetricFamily(
            "cap_exporter_pod_watch_errors_total",
            "Requests to the API server that failed, by reason.",
            labels=("reason",),
        )
        for reason, count in sorted(state.errors.items()):
            errors.add_metric((reason,), count)
        yield errors
        yield CounterMetricFamily(
            "cap_exporter_pod_watch_invalid_pods_total",
            "Objects in the API server's answers that were no pods; left out.",
            value=state.invalid_pods,
        )


def make_pod_watch(
    node_name: str, kubeconfig: Path | None, labels: Collection[str] = ()
) -> RunningPodWatch:
    """What follows the pods of a node. labels: names of the pods' labels to keep."""
    store = PodStore()
    api = KubernetesApi(kubeconfig=str(kubeconfig) if kubeconfig else None)
    return RunningPodWatch(PodWatch(api, store, node_name, labels=labels), store)
