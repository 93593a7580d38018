# SPDX-License-Identifier: Apache-2.0
"""Profiles of many nodes: from a Prometheus' history, or from every exporter of a cluster."""
