# SPDX-License-Identifier: Apache-2.0
"""What cap-exporter costs, measured against what a user would pick instead."""
