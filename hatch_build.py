# SPDX-License-Identifier: Apache-2.0
"""Build hook: whoever makes a wheel or installs from source gets the compiled BPF objects in it.

They are written into cap_exporter/_bpf/, where a wheel picks them up as artifacts and an editable
install, which is only a path to this tree, finds them too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        if self.target_name != "wheel":  # an sdist carries the sources
            return
        script = Path(self.root) / "tools" / "compile_bpf.py"
        if subprocess.run([sys.executable, str(script)], check=False).returncode != 0:
            sys.exit("cap-exporter: the BPF program could not be compiled; the reason is above.")
