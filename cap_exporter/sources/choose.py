# SPDX-License-Identifier: Apache-2.0
"""Makes the source that `--source` names."""

from __future__ import annotations

from pathlib import Path

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import Source


def make_source(
    spec: str,
    hierarchies: Hierarchies,
    *,
    attach: str | None = None,
    btf: Path | None = None,
    counters: int = 32768,
    paced: bool = True,
) -> Source:
    """``spec``: auto, libbpf or replay:FILE. Nothing is loaded before open().
    ``paced``: play a recording at its own speed."""

    def libbpf() -> Source:
        from cap_exporter.sources.libbpf import LibbpfSource

        return LibbpfSource(hierarchies, attach=attach, btf=btf, slots=counters)

    if spec.startswith("replay:"):
        from cap_exporter.sources.replay import ReplaySource

        return ReplaySource(Path(spec.removeprefix("replay:")), paced=paced)
    return libbpf()
