# SPDX-License-Identifier: Apache-2.0
"""Cgroups: what a path says (reference), which hierarchies count, which id has which path."""
