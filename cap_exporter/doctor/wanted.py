# SPDX-License-Identifier: Apache-2.0
"""What `run` would be told: the checks look at what that needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cap_exporter.outputs.otlp_settings import Flags
from cap_exporter.sources.events import EventSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Options of `run` by their names."""

    source: str = "auto"
    attach: str | None = None
    btf: Path | None = None
    cgroup_root: Path | None = None
    events: EventSettings | None = field(default_factory=EventSettings)
    listen: str = "[::]:10838"
    page_listen: str = "127.0.0.1:10839"
    web_config: Path | None = None
    page_web_config: Path | None = None
    kubernetes: str = "auto"
    kubeconfig: Path | None = None
    node_name: str | None = None
    docker_socket: Path | None = None
    pin: Path | None = None
    otlp: Flags = field(default_factory=Flags)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    deep: bool = False
    """Also what takes long: BCC compiles its program."""

    @property
    def live(self) -> bool:
        """This host is counted, not a recording played."""
        return not self.source.startswith("replay:")
