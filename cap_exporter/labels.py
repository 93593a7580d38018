# SPDX-License-Identifier: Apache-2.0
"""The labels that name a series, and how text from outside becomes a label value.

Names of pods, units and cgroups come from other people: a cgroup's name may have any byte but
``/`` and a newline (kernel/cgroup/cgroup.c, cgroup_mkdir, 6.18). One rule for all of them:

* Valid Unicode stays as it is, control characters included. The text formats' own escapes (for
  the backslash, the double quote and the newline) are the encoder's work and are undone by every
  parser, so that ``system-serial\\x2dgetty.slice`` reaches Prometheus unchanged.
* What cannot be UTF-8 becomes visible text: a byte that was not UTF-8 (Python reads 0xFF as the
  surrogate escape U+DCFF) as ``\\xff``, any other lone surrogate as ``\\ud800``.

The second rule is no one-to-one mapping: a name with the byte 0xFF and one that has the four
characters ``\\xff`` look the same. That is why series are keyed by these labels, after the rule:
two such containers share one series, instead of making a page with the same series twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from cap_exporter.model import Identity

_SURROGATES = re.compile("[\ud800-\udfff]")


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    # PEP 383: the byte 0xNN that could not be decoded is U+DCNN.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def label_value(text: str) -> str:
    """``text`` as a label value: what cannot be encoded as UTF-8 is replaced by visible text."""
    if text.isascii():
        return text
    return _SURROGATES.sub(_visible, text)


#: Values of a scheme's labels, in the order of its names: what tells one series of a capability
#: and verdict from another.
Labels: TypeAlias = tuple[str, ...]

#: The container label of checks that could not be told apart for want of room; the other labels
#: are empty. They are part of every sum.
OVERFLOW = "(overflow)"

#: The container label of all runtime monitors of one pod, or of the host.
HELPER = "(helper)"

#: Labels a series may be told apart by, and the field of an Identity each is.
CHOICES = ("namespace", "pod", "container", "workload_kind", "workload")

DEFAULT = ("namespace", "pod", "container")

#: Kubernetes' own way to make a label's name a metric label's, as in kube-state-metrics.
_POD_LABEL = "label_"

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")


class LabelScheme:
    """Which labels series have.

    names: a choice of CHOICES, ``container`` among them. Without ``pod``, the series of a
    workload's containers of one name are one series: their sum. pod_labels: names of pods' labels
    that become labels too; ``app.kubernetes.io/name`` as ``label_app_kubernetes_io_name``.
    Raises ValueError for names that don't go.
    """

    def __init__(self, names: Sequence[str] = DEFAULT, pod_labels: Sequence[str] = ()) -> None:
        for name in names:
            if name not in CHOICES:
                raise ValueError(f"{name!r} is no label: choose of {', '.join(CHOICES)}")
        if "container" not in names:
            raise ValueError(
                "the label container must be among the labels: host units, (overflow) and "
                "(helper) have no other name"
            )
        self.fields = tuple(dict.fromkeys(names))
        self.pod_labels = tuple(dict.fromkeys(pod_labels))
        """Names of the pods' labels that are looked at."""
        of_pods = tuple(_POD_LABEL + _NOT_IN_NAMES.sub("_", name) for name in self.pod_labels)
        for name in of_pods:
            if of_pods.count(name) > 1:
                raise ValueError(f"two of the pod labels become the same metric label, {name}")
        self.names = (*self.fields, *of_pods)
        """Names of the metric labels."""
        self.per_container = "pod" in self.fields
        """Each series is one container's; else one series may be many containers'."""
        self._container = self.names.index("container")
        self.overflow: Labels = self._only_container(OVERFLOW)

    def _only_container(self, container: str) -> Labels:
        return tuple(container if i == self._container else "" for i in range(len(self.names)))

    def of(self, identity: Identity) -> Labels:
        """The labels under which the checks of ``identity`` are published.

        A runtime's monitor (conmon, the LXC monitor) is no workload and there is one per container:
        those of a pod, or of the host, share the container label ``(helper)``. Their checks stay
        in every sum, and one matcher, ``container!="(helper)"``, leaves them out.
        """
        values = [label_value(getattr(identity, field)) for field in self.fields]
        if identity.helper:
            values[self._container] = HELPER
        if self.pod_labels:
            found = dict(identity.pod_labels)
            values += [label_value(found.get(name, "")) for name in self.pod_labels]
        return tuple(values)

    def is_nameless(self, labels: Labels) -> bool:
        """Whether no container has these labels: ``(overflow)`` and ``(helper)``."""
        return labels[self._container] == HELPER or labels == self.overflow
