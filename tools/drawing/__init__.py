# SPDX-License-Identifier: Apache-2.0
"""The dashboards as pictures, without Grafana."""
