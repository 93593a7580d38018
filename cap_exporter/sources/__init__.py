# SPDX-License-Identifier: Apache-2.0
"""Where checks come from. Every source answers to the protocol ``cap_exporter.model.Source``."""
