# SPDX-License-Identifier: Apache-2.0
"""Which workload a pod belongs to, told from the pod alone.

Reading ReplicaSets and Jobs would need more rights and more memory, and is not needed: their
controllers build names by fixed rules.

- Deployment: a ReplicaSet is called ``<deployment>-<hash>``, and the same hash is the pods'
  ``pod-template-hash`` label (kubernetes pkg/controller/deployment/sync.go, getNewReplicaSet).
- CronJob: a Job is called ``<cronjob>-<scheduled time>``, in minutes since the epoch
  (kubernetes pkg/controller/cronjob/utils.go, getJobName, since v1.21).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from cap_exporter.pods.untrusted import mapping, objects, text

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The kubelet's annotation on the API's copy of a static pod; its value is the hash that is the
#: pod's uid to the kubelet (kubernetes pkg/kubelet/types/pod_update.go).
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
HASH_ANNOTATION = "kubernetes.io/config.hash"

TEMPLATE_HASH_LABEL = "pod-template-hash"

# Minutes since the epoch: 2015 (before there were CronJobs) to 2100. Dates like 20261125, which
# people append to names of Jobs, are below.
_FIRST_MINUTE = 23_667_840
_LAST_MINUTE = 68_374_080

# A Job's pods are made after its scheduled time: at once, or later by back-off, suspension and
# the time a node takes to be there.
_EARLIEST_POD = timedelta(minutes=-10)
_LATEST_POD = timedelta(days=31)


class Workload(NamedTuple):
    kind: str
    """Deployment, ReplicaSet, StatefulSet, DaemonSet, CronJob, Job, StaticPod, Pod, or the kind
    of any other owner."""
    name: str


def is_static(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is the API's copy of one that a node reads from its own disk."""
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    return bool(text(annotations.get(MIRROR_ANNOTATION)))


def static_uid(pod: Mapping[str, Any]) -> str:
    """The uid of a static pod in cgroup paths; ``""`` for other pods and where it is their uid."""
    if not is_static(pod):
        return ""
    metadata = mapping(pod.get("metadata"))
    annotations = mapping(metadata.get("annotations"))
    uid = text(annotations.get(HASH_ANNOTATION)) or text(annotations.get(MIRROR_ANNOTATION))
    return "" if uid == metadata.get("uid") else uid


def workload_of(pod: Mapping[str, Any]) -> Workload:
    """The pod's workload. A pod nobody owns is its own: kind Pod, name of the pod."""
    metadata = mapping(pod.get("metadata"))
    name = text(metadata.get("name"))
    owner = _owner(metadata)
    if is_static(pod) or owner.kind == "Node":
        node = text(mapping(pod.get("spec")).get("nodeName")) or (
            owner.name if owner.kind == "Node" else ""
        )
        # The kubelet appends its node's name, which would make a workload of each node.
        return Workload("StaticPod", name.removesuffix(f"-{node}") if node else name)
    if not owner.name:
        return Workload("Pod", name)
    if owner.kind == "ReplicaSet":
        template_hash = text(mapping(metadata.get("labels")).get(TEMPLATE_HASH_LABEL))
        deployment = owner.name.removesuffix(f"-{template_hash}") if template_hash else owner.name
        if deployment and deployment != owner.name:
            return Workload("Deployment", deployment)
    elif owner.kind == "Job":
        cron_job, _, suffix = owner.name.rpartition("-")
        if cron_job and _is_scheduled_time(suffix, text(metadata.get("creationTimestamp"))):
            return Workload("CronJob", cron_job)
    return owner


def _owner(metadata: Mapping[str, Any]) -> Workload:
    """The owner that controls the pod; the first one where none says that it does."""
    first = Workload("", "")
    for reference in objects(metadata.get("ownerReferences")):
        owner = Workload(text(reference.get("kind")), text(reference.get("name")))
        if owner.kind and owner.name:
            if reference.get("controller") is True:
                return owner
            first = first if first.name else owner
    return first


def _is_scheduled_time(suffix: str, created: str) -> bool:
    if not (suffix.isascii() and suffix.isdigit() and len(suffix) == len(str(_FIRST_MINUTE))):
        return False
    minute = int(suffix)
    if not _FIRST_MINUTE <= minute <= _LAST_MINUTE:
        return False
    try:
        made = datetime.fromisoformat(created)
        if made.tzinfo is None:
            made = made.replace(tzinfo=UTC)
        age = made - datetime.fromtimestamp(minute * 60, UTC)
    except (ValueError, OverflowError):
        return True  # nothing speaks against it
    return _EARLIEST_POD <= age <= _LATEST_POD
