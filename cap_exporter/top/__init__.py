# SPDX-License-Identifier: Apache-2.0
"""The live view of a terminal: where profiles come from, rates, the screen, the keys."""
