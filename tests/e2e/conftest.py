# SPDX-License-Identifier: Apache-2.0
"""Containers and cgroups as in the kernel tests."""

from tests.kernel.conftest import busybox_root, checks, container, fresh_cgroup

__all__ = ["busybox_root", "checks", "container", "fresh_cgroup"]
