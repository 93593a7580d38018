# SPDX-License-Identifier: Apache-2.0
"""What containers use and are denied, from the ledger's counts."""
