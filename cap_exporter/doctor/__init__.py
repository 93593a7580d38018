# SPDX-License-Identifier: Apache-2.0
"""What works on this host, what does not, why, and what to do about it."""
