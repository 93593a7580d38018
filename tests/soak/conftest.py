# SPDX-License-Identifier: Apache-2.0
"""The programs, root file system and API server of the end-to-end tests."""

from tests.e2e.conftest import busybox_root, checks, kube

__all__ = ["busybox_root", "checks", "kube"]
