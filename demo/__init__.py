# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a few known workloads in real containers, counted and scraped, on one machine."""
