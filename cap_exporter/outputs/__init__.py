# SPDX-License-Identifier: Apache-2.0
"""The ways out: one file per place where the numbers go."""
