# SPDX-License-Identifier: Apache-2.0
"""Counts the kernel's capability checks and says whose they are."""

__version__ = "0.1.0"
