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
from typing import TYPE_CHECKING, NamedTuple

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


class Labels(NamedTuple):
    """What tells one series of a capability and verdict from another."""

    namespace: str
    pod: str
    container: str


#: Checks that could not be told apart for want of room; part of every sum.
OVERFLOW_LABELS = Labels("", "", "(overflow)")

#: The container label of all runtime monitors of one pod, or of the host.
HELPER = "(helper)"


def labels_of(identity: Identity) -> Labels:
    """The labels under which the checks of ``identity`` are published.

    A runtime's monitor (conmon, the LXC monitor) is no workload and there is one per container:
    those of a pod, or of the host, share the container label ``(helper)``. Their checks stay in
    every sum, and one matcher, ``container!="(helper)"``, leaves them out.
    """
    return Labels(
        label_value(identity.namespace),
        label_value(identity.pod),
        HELPER if identity.helper else label_value(identity.container),
    )
