# SPDX-License-Identifier: Apache-2.0
"""The page for people: rendered here, live with a small script, whole without it."""
