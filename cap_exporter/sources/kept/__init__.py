# SPDX-License-Identifier: Apache-2.0
"""Programs and counts that outlive their process (`run --pin`)."""
