# SPDX-License-Identifier: Apache-2.0
"""Pods of this node: read from the Kubernetes API, found by container id and by pod uid."""
