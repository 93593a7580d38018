# SPDX-License-Identifier: Apache-2.0
"""The kernel tests' cgroups and helper program."""

from __future__ import annotations

from tests.kernel.conftest import checks, fresh_cgroup

__all__ = ["checks", "fresh_cgroup"]
